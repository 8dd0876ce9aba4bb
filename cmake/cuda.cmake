# Where the CUDA toolkit is, if there is one: MICA_CUDA_ROOT, CUDA_HOME, what tests/fetch_cuda
# fetched, /usr/local.
#
#   MICA_CUDA_INCLUDE   its headers: enough for the tests on the emulated CUDA
#   MICA_NCCL_INCLUDE   NCCL's
#   MICA_NVCC           its compiler, with which the plugin is built
set(MICA_CUDA_ROOT "" CACHE PATH "CUDA toolkit; empty: where it is usually found")
set(places ${MICA_CUDA_ROOT} $ENV{CUDA_HOME} ${CMAKE_SOURCE_DIR}/build/cuda/nvidia/cu13 /usr/local/cuda)
find_path(MICA_CUDA_INCLUDE cublasLt.h PATHS ${places} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(MICA_NCCL_INCLUDE nccl.h PATHS ${places} PATH_SUFFIXES include ../nccl/include NO_DEFAULT_PATH)
find_program(MICA_NVCC nvcc PATHS ${places} PATH_SUFFIXES bin NO_DEFAULT_PATH)

# mica_cuda_objects(variable file.cu...): the files through nvcc, for every GPU that is meant and as PTX for later
# ones. What ptxas says of a file (registers, spills, shared memory) goes to cuda/FILE.ptxas in the build folder.
set(MICA_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "compute capabilities of the plugin; the last one as PTX too")
function(mica_cuda_objects variable)
    set(code "")
    foreach(sm IN LISTS MICA_CUDA_ARCHITECTURES)
        list(APPEND code -gencode arch=compute_${sm},code=sm_${sm})
        set(last ${sm})
    endforeach()
    list(APPEND code -gencode arch=compute_${last},code=compute_${last})
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
    set(objects "")
    foreach(file IN LISTS ARGN)
        get_filename_component(name ${file} NAME_WE)
        set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
        # nvcc's stubs need no C++ runtime with these, so that a C compiler links the plugin.
        add_custom_command(OUTPUT ${object} DEPENDS ${CMAKE_SOURCE_DIR}/${file} DEPFILE ${object}.d VERBATIM
            COMMENT "nvcc ${file}"
            COMMAND sh -c "\"$@\" > ${CMAKE_BINARY_DIR}/cuda/${name}.ptxas 2>&1 || { cat ${CMAKE_BINARY_DIR}/cuda/${name}.ptxas; exit 1; }" nvcc
                ${MICA_NVCC} -c -O3 -std=c++17 ${code} -Xptxas -v -MD -MF ${object}.d -I${CMAKE_SOURCE_DIR}
                -I${MICA_NCCL_INCLUDE}
                -Xcompiler -fPIC,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-fvisibility=hidden
                ${CMAKE_SOURCE_DIR}/${file} -o ${object})
        list(APPEND objects ${object})
    endforeach()
    set(${variable} ${objects} PARENT_SCOPE)
endfunction()

# The plugin: where nvcc and the three libraries are.
find_library(MICA_CUDART cudart NAMES cudart libcudart.so.13 PATHS ${places} PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH)
find_library(MICA_CUBLASLT cublasLt NAMES cublasLt libcublasLt.so.13 PATHS ${places} PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH)
find_library(MICA_NCCL nccl NAMES nccl libnccl.so.2 PATHS ${places} PATH_SUFFIXES lib64 lib
             ../nccl/lib NO_DEFAULT_PATH)
function(mica_cuda_plugin)
    mica_cuda_objects(objects paged_kv/kv_write_cuda.cu paged_kv/paged_attn_cuda.cu paged_kv/paged_attn_cuda_plain.cu
                      adapters/lora_cuda.cu runtime/backend/cuda_few.cu runtime/backend/cuda_ops.cu
                      runtime/backend/cuda_pick.cu runtime/backend/cuda_quant.cu runtime/backend/cuda_sum.cu)
    add_library(mica_cuda MODULE ${objects}
        adapters/lora_cuda_plan.c
        paged_kv/paged_attn_cuda_plan.c
        runtime/backend/cuda.c
        runtime/backend/cuda_adapters.c
        runtime/backend/cuda_blas.c
        runtime/backend/cuda_graph.c
        runtime/backend/cuda_group.c
        runtime/backend/cuda_matrix.c
        runtime/backend/cuda_pick_plan.c
        runtime/backend/cuda_quant.c
        runtime/backend/cuda_quant_panels.c
        runtime/backend/cuda_step.c
        runtime/backend/cuda_sum.c
        runtime/backend/cuda_tune.c
        runtime/backend/cuda_upload.c
        runtime/backend/pool.c
        runtime/backend/quant.c)
    target_include_directories(mica_cuda SYSTEM PRIVATE ${MICA_CUDA_INCLUDE} ${MICA_NCCL_INCLUDE})
    target_link_libraries(mica_cuda PRIVATE ${MICA_CUDART} ${MICA_CUBLASLT} ${MICA_NCCL} Threads::Threads m)
    target_link_options(mica_cuda PRIVATE -Wl,--no-undefined)
    install(TARGETS mica_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endfunction()
