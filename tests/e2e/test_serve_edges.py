"""What stands around the calls of `mica serve`: reflection in both versions, TLS with clients' certificates."""
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import mica
import serve
from serve import grpc, health

import reflection_pb2
import reflection_pb2_grpc
import reflection_v1alpha_pb2
import reflection_v1alpha_pb2_grpc
from google.protobuf import descriptor_pb2, descriptor_pool

GRANITE = mica.GOLDEN / "granite"


class Reflection(unittest.TestCase):
    def ask(self, server, messages, stubs, **questions):
        requests = [messages.ServerReflectionRequest(**{k: v}) for k, v in questions.items()]
        return list(stubs.ServerReflectionStub(server.channel).ServerReflectionInfo(iter(requests)))

    def test_both_versions_tell_the_whole_schema(self):
        with serve.Server(GRANITE) as server:
            for messages, stubs in ((reflection_pb2, reflection_pb2_grpc),
                                    (reflection_v1alpha_pb2, reflection_v1alpha_pb2_grpc)):
                answers = self.ask(server, messages, stubs, list_services="*", file_containing_symbol="vllm.Nothing",
                                   file_by_filename="nothing.proto")
                names = {s.name for s in answers[0].list_services_response.service}
                self.assertLessEqual({"vllm.Inference", "vllm.Control", "grpc.health.v1.Health"}, names)
                self.assertEqual([a.error_response.error_code for a in answers[1:]], [5, 5])
                self.build_from_answers(server, messages, stubs)

    def build_from_answers(self, server, messages, stubs):
        """What is told is enough to make a client of it."""
        pool = descriptor_pool.DescriptorPool()
        answer, = self.ask(server, messages, stubs, file_containing_symbol="vllm.Inference.GenerateStream")
        files = [descriptor_pb2.FileDescriptorProto.FromString(b)
                 for b in answer.file_descriptor_response.file_descriptor_proto]
        for file in reversed(files):
            pool.Add(file)
        method = pool.FindServiceByName("vllm.Inference").methods_by_name["GenerateStream"]
        self.assertEqual(method.input_type.fields_by_name["lora_name"].number, 15)


class Tls(unittest.TestCase):
    """A certificate authority, a server and a client, made for the test."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.at = pathlib.Path(self.folder.name)
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
                     "-subj", "/CN=ca")
        for name in ("server", "renewed", "client"):
            self.issue(name)

    def tearDown(self):
        self.folder.cleanup()

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.at, check=True, capture_output=True)

    def issue(self, name):
        (self.at / "ext").write_text("subjectAltName=IP:127.0.0.1")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                     "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                     "-extfile", "ext", "-out", f"{name}.pem")

    def read(self, name):
        return (self.at / name).read_bytes()

    def check(self, channel):
        with channel:
            stub = serve.health_grpc.HealthStub(channel)
            return stub.Check(health.HealthCheckRequest(), timeout=20).status

    def test_clients_need_a_certificate_and_a_renewed_one_of_the_server_is_taken(self):
        files = ["--ssl-keyfile", self.at / "server.key", "--ssl-certfile", self.at / "server.pem",
                 "--ssl-ca-certs", self.at / "ca.pem"]
        known = grpc.ssl_channel_credentials(self.read("ca.pem"), self.read("client.key"), self.read("client.pem"))
        unknown = grpc.ssl_channel_credentials(self.read("ca.pem"))
        with serve.Server(GRANITE, files, tls=known) as server:
            serving = health.HealthCheckResponse.SERVING
            self.assertEqual(server.health.Check(health.HealthCheckRequest()).status, serving)
            for channel in (server.connect(unknown), server.connect()):
                serve.refused(self, lambda c=channel: self.check(c), grpc.StatusCode.UNAVAILABLE)
            first = self.certificate(server)
            (self.at / "server.pem").write_text("half a file")
            self.assertEqual(self.check(server.connect(known)), serving)
            shutil.copy(self.at / "renewed.key", self.at / "server.key")
            shutil.copy(self.at / "renewed.pem", self.at / "server.pem")
            self.assertEqual(self.check(server.connect(known)), serving)
            self.assertNotEqual(self.certificate(server), first)
            self.assertEqual(server.health.Check(health.HealthCheckRequest()).status, serving)

    def certificate(self, server):
        done = subprocess.run(["openssl", "s_client", "-connect", server.address, "-showcerts"], cwd=self.at,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.stdout.split("-----BEGIN CERTIFICATE-----")[1]

    def test_files_that_are_no_certificates_are_refused(self):
        for files in (["--ssl-keyfile", self.at / "missing", "--ssl-certfile", self.at / "server.pem"],
                      ["--ssl-keyfile", self.at / "ext", "--ssl-certfile", self.at / "server.pem"],
                      ["--ssl-keyfile", self.at / "server.key"]):
            with self.assertRaises(AssertionError) as caught:
                serve.Server(GRANITE, files)
            self.assertIn("--ssl-", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
