# Where the CUDA toolkit is, if there is one: MICA_CUDA_ROOT, CUDA_HOME, what tests/run --cuda fetched, /usr/local.
#
#   MICA_CUDA_INCLUDE   its headers: enough for the tests on the emulated CUDA
#   MICA_NVCC           its compiler, with which the plugin is built
set(MICA_CUDA_ROOT "" CACHE PATH "CUDA toolkit; empty: where it is usually found")
set(places ${MICA_CUDA_ROOT} $ENV{CUDA_HOME} ${CMAKE_SOURCE_DIR}/build/cuda/nvidia/cu13 /usr/local/cuda)
find_path(MICA_CUDA_INCLUDE cublasLt.h PATHS ${places} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_program(MICA_NVCC nvcc PATHS ${places} PATH_SUFFIXES bin NO_DEFAULT_PATH)
