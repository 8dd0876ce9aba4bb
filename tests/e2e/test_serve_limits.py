"""Connections and metadata of `mica serve` have bounds, and what is over them holds nobody else up."""
import resource
import socket
import unittest

import mica
import serve
from serve import grpc, health

GRANITE = mica.GOLDEN / "granite"
SILENT = 600


class Limits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            cls.server = serve.Server(GRANITE, ["--max-model-len", "512"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * SILENT)), hard))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def check(self, metadata=()):
        with self.server.connect() as channel:
            stub = serve.health_grpc.HealthStub(channel)
            return stub.Check(health.HealthCheckRequest(), metadata=metadata, timeout=60).status

    def test_more_connections_than_the_shells_limit_on_files(self):
        host, port = self.server.address.split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(SILENT)]
        self.assertEqual(self.check(), 1)
        for s in held:
            s.close()
        self.assertEqual(self.check(), 1)

    def test_metadata_has_a_bound(self):
        self.assertEqual(self.check((("x-padding", "y" * 12000),)), 1)
        for metadata in ([("x-padding", "y" * 40000)], [(f"x-{i}", "y" * 1000) for i in range(40)]):
            serve.refused(self, lambda m=metadata: self.check(m), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.check(), 1)


if __name__ == "__main__":
    unittest.main()
