"""Three servers behind the distribution's HAProxy: the recipe of runtime/server/deploy, but for its ports."""
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

import mica
import processes
import serve
from serve import control, grpc, inference

GRANITE = mica.GOLDEN / "granite"
RECIPE = mica.ROOT / "runtime/server/deploy/haproxy.cfg"
SESSIONS = 30
CROWD = 200  # streams beside which one outlives two failed checks, and is not sent at once on a busy machine
NAMES = ("mica1", "mica2", "mica3")


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def request(tokens=2):
    r = inference.GenerateRequest()
    r.token_ids.ids.extend(range(10, 40))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    return r


def crowd_of(server):
    """-> streams, to be kept, that a server has: beside them another one takes longer."""
    streams = [server.inference.GenerateStream(request(450)) for _ in range(CROWD)]
    next(streams[-1])
    return streams


@unittest.skipUnless(shutil.which("haproxy"), "haproxy is not installed")
class ThreeServers(unittest.TestCase):
    """Three servers behind HAProxy, by the recipe."""
    flags = ()

    def setUp(self):
        self.servers = {n: self.start() for n in NAMES}
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.proxy = self.start_proxy()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)])
        self.stub = serve.inference_grpc.InferenceStub(self.channel)
        self.addCleanup(self.end)
        self.wait_for(lambda: set(self.where().values()) == set(NAMES))

    def start(self, grpc_port=0, port=0):
        name = f"replica-{time.monotonic_ns()}"
        return serve.Server(GRANITE, ["--max-model-len", 512, "--kv-cache-memory-bytes", "64M", "--grpc-port",
                                      grpc_port, "--port", port, "--drain-seconds", 300, "--served-model-name", name,
                                      *self.flags])

    def start_proxy(self):
        self.port = processes.free_port()
        text = RECIPE.read_text().replace("127.0.0.1:50050", f"127.0.0.1:{self.port}")
        for i, s in enumerate(self.servers.values(), 1):
            text, count = re.subn(rf"127.0.0.1:5005{i} port 800{i}", f"{s.address} port {port_of(s.http)}", text)
            self.assertEqual(count, 1)
        config = pathlib.Path(self.folder.name) / "haproxy.cfg"
        config.write_text(text)
        subprocess.run(["haproxy", "-c", "-f", config], check=True, capture_output=True)
        proxy = subprocess.Popen(["haproxy", "-db", "-f", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        self.wait_for(self.listens)  # before gRPC tries: after a refusal it would wait for long
        return proxy

    def listens(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self):
        self.channel.close()
        self.proxy.terminate()
        self.proxy.wait(20)
        for s in self.servers.values():
            s.__exit__()

    def kill(self, server):
        """It is gone when this returns, so that nobody takes it for one that is to be stopped."""
        server.process.kill()
        server.process.wait(60)

    def replica_of(self, session):
        """By the name under which each serves its model."""
        stub = serve.control_grpc.ControlStub(self.channel)
        info = stub.GetModelInfo(control.GetModelInfoRequest(), metadata=(("x-session", session),), timeout=20)
        for name, s in self.servers.items():
            if f"--served-model-name {info.served_model_name}" in " ".join(s.process.args):
                return name
        raise AssertionError(info)

    def open_requests(self, server):
        """Running and waiting ones."""
        page = urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10).read().decode()
        return [float(x) for x in re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)", page, re.M)]

    def where(self):
        return {f"session {i}": self.replica_of(f"session {i}") for i in range(SESSIONS)}

    def wait_for(self, holds, seconds=30):
        until = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except grpc.RpcError as e:
                self.assertIn(e.code(), (grpc.StatusCode.UNAVAILABLE,), e)
            self.assertLess(time.monotonic(), until)
            time.sleep(0.1)


class Replicas(ThreeServers):
    def test_sessions_stay_and_only_a_dead_replicas_move(self):
        before = self.where()
        self.assertEqual(self.where(), before)
        dead = before["session 0"]
        victim = self.servers[dead]
        ports = port_of(victim.address), port_of(victim.http)
        self.kill(victim)
        after = self.where()  # at once: no call fails, those to the dead one are sent to another
        for session, replica in before.items():
            if replica == dead:
                self.assertNotEqual(after[session], dead)
            else:
                self.assertEqual(after[session], replica, "a session of a living replica was moved")
        victim.channel.close()
        self.servers[dead] = self.start(*ports)
        self.wait_for(lambda: self.where() == before)

    def test_a_draining_replica_is_left(self):
        before = self.where()
        left = before["session 1"]
        self.assertEqual(self.servers[left].stop(), 0)
        for session, replica in self.where().items():
            self.assertNotEqual(replica, left)
            if before[session] != left:
                self.assertEqual(replica, before[session])

    def test_a_stream_of_a_draining_replica_ends_whole(self):
        left = self.servers[self.replica_of("session 1")]
        whole = sum((list(m.outputs.token_ids) for m in left.inference.GenerateStream(request(450))), [])
        call = self.stub.GenerateStream(request(450), metadata=(("x-session", "session 1"),))
        got = list(next(call).outputs.token_ids)
        crowd = crowd_of(left)
        left.process.terminate()
        self.wait_for(lambda: self.servers[self.replica_of("session 1")] is not left)  # HAProxy has seen /health's 503
        self.assertIsNone(left.process.poll(), "all is over already, so this shows nothing")
        for m in call:
            got += m.outputs.token_ids
        self.assertEqual(got, whole)
        self.assertEqual(left.process.wait(60), 0, left.said())

    def test_calls_without_an_answer_go_to_another_replica(self):
        metadata = (("x-session", "session 4"),)
        name = self.replica_of("session 4")
        want = [list(m.outputs.token_ids) for m in self.servers[name].inference.GenerateStream(request(20))]
        self.servers[name].process.send_signal(signal.SIGSTOP)  # it takes calls, and says nothing
        calls = [self.stub.Generate.future(request(20), metadata=metadata, timeout=60) for _ in range(4)]
        time.sleep(0.2)  # they are there; too soon for two checks to have failed
        self.kill(self.servers[name])
        for c in calls:
            self.assertEqual(list(c.result().outputs.token_ids), sum(want, []))

    def test_streams_flow_and_a_broken_one_ends(self):
        metadata = (("x-session", "session 2"),)
        alone = self.servers[self.replica_of("session 2")]
        want = [list(m.outputs.token_ids) for m in alone.inference.GenerateStream(request(400))]
        crowd = crowd_of(alone)
        got = [list(m.outputs.token_ids) for m in self.stub.GenerateStream(request(400), metadata=metadata)]
        for beside in crowd:
            beside.cancel()
        self.assertEqual(sum(got, []), sum(want, []))
        self.assertGreater(len(got), 2, "token by token")
        call = self.stub.GenerateStream(request(450), metadata=metadata)
        next(call)
        alone.process.send_signal(signal.SIGSTOP)  # so that the stream cannot be over before it dies
        self.kill(alone)
        try:
            messages = list(call)
            self.assertTrue(messages, "what was sent before arrives")
        except grpc.RpcError as e:
            self.assertIn(e.code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED,
                                     grpc.StatusCode.UNKNOWN))

    def test_a_cancel_reaches_the_replica(self):
        call = self.stub.GenerateStream(request(450), metadata=(("x-session", "session 3"),), timeout=60)
        next(call)
        call.cancel()
        server = self.servers[self.replica_of("session 3")]
        self.wait_for(lambda: self.open_requests(server) == [0, 0])


class Delayed(ThreeServers):
    """Replicas that take calls for a while after SIGTERM."""
    flags = ("--shutdown-delay-seconds", 2)

    def test_no_call_to_a_draining_replica_is_refused(self):
        left = self.servers[self.replica_of("session 1")]
        left.process.terminate()
        before = after = 0
        while left.process.poll() is None:
            if self.servers[self.replica_of("session 1")] is left:
                before += 1
            else:
                after += 1
            self.stub.Generate(request(1), metadata=(("x-session", "session 1"),), timeout=20)
        self.assertGreater(before, 0)
        self.assertGreater(after, 0)
        self.assertEqual(left.process.wait(60), 0, left.said())


if __name__ == "__main__":
    unittest.main()
