"""Starts one command as several processes, as mpirun, torchrun, srun or a person would."""
import os
import shutil
import socket
import subprocess
import tempfile
import time

import mica

ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def by_hand(rank, count, port):
    return {}, ["--nnodes", count, "--node-rank", rank, "--master-addr", "127.0.0.1", "--master-port", port]


def by_torchrun(rank, count, port):
    return {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}, []


def by_srun(rank, count, port):
    return {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": count, "SLURM_LOCALID": rank,
            "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port}, []


def by_pmi(rank, count, port):
    return {"PMI_RANK": rank, "PMI_SIZE": count, "MPI_LOCALRANKID": rank, "MPI_LOCALNRANKS": count,
            "MASTER_PORT": port}, []


class Processes:
    """All processes of one command; prefixes: what stands before it in each."""

    def __init__(self, command, count, style=by_hand, prefixes=None):
        port = free_port()
        self.children, self.errors = [], []
        for rank in range(count):
            more, flags = style(rank, count, port)
            environment = {**os.environ, **{k: str(v) for k, v in more.items()}}
            self.errors.append(tempfile.TemporaryFile())
            prefix = prefixes[rank] if prefixes else []
            self.children.append(subprocess.Popen(
                [*prefix, *map(str, command), *map(str, flags)], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=self.errors[-1]))

    def said(self, rank):
        self.errors[rank].seek(0)
        return self.errors[rank].read().decode("utf-8", "replace")

    def wait(self, timeout=mica.TIMEOUT_S):
        """-> the exit statuses; whoever is left at the end is killed"""
        until = time.monotonic() + timeout
        try:
            return [c.wait(max(0.1, until - time.monotonic())) for c in self.children]
        finally:
            for child in self.children:
                if child.poll() is None:
                    child.kill()
                    child.wait()

    def wait_for(self, rank, text, timeout=60):
        until = time.monotonic() + timeout
        while text not in self.said(rank):
            assert time.monotonic() < until and self.children[rank].poll() is None, self.said(rank)
            time.sleep(0.01)


def starter(count, style=by_hand, prefixes=None):
    """For mica.run: process 0's status and stderr. The others must end well and say nothing."""
    def start(command):
        p = Processes(command, count, style, prefixes)
        statuses = p.wait()
        for rank in range(1, count):
            assert statuses[rank] == statuses[0], f"{statuses}\n{p.said(0)}\n{p.said(rank)}"
            assert statuses[0] or not p.said(rank), p.said(rank)
        return statuses[0], p.said(0)
    return start


def mpirun(count, *flags):
    def start(command):
        assert shutil.which("mpirun"), "openmpi-bin is missing"
        done = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(count), *flags, *command],
                              capture_output=True, timeout=mica.TIMEOUT_S, stdin=subprocess.DEVNULL,
                              env={**os.environ, **ROOT_MAY})
        return done.returncode, done.stderr.decode("utf-8", "replace")
    return start
