"""--lora-lazy-load: a request may name an adapter below --lora-root that nobody has loaded."""
import pathlib
import shutil
import tempfile
import threading
import unittest

import mica
import serve
from serve import control, grpc, inference

GRANITE = mica.GOLDEN / "granite"
Code = grpc.StatusCode


def request(name, tokens=6):
    r = inference.GenerateRequest(lora_name=name, request_id="same")
    r.token_ids.ids.extend(range(10, 40))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    return r


class Root(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.at = pathlib.Path(self.folder.name)
        self.root = self.at / "root"
        self.root.mkdir()
        for name, source in (("one", "lora-all"), ("team/two", "lora-qkv"), ("loaded", "lora-o")):
            shutil.copytree(GRANITE / "adapters" / source, self.root / name)
        (self.root / "outside").symlink_to(GRANITE / "adapters/lora-all")
        shutil.copytree(self.root / "one", self.root / "broken")
        (self.root / "broken/adapter_model.safetensors").write_bytes(b"\0" * 16)
        self.server = serve.Server(GRANITE, ["--lora-root", self.root, "--lora-lazy-load", "--max-model-len", "512",
                                             *self.more_flags()], adapters={"loaded": self.root / "loaded"})

    def tearDown(self):
        status = self.server.stop()
        self.folder.cleanup()
        assert status == 0

    def more_flags(self):
        return []

    def ids(self, name, metadata=None):
        answer = self.server.inference.GenerateStream(request(name), metadata=metadata)
        return serve.Answer(answer).ids

    def names(self, metadata=None):
        loras = self.server.control.ListLoras(control.ListLorasRequest(), metadata=metadata)
        return [a.lora_name for a in loras.adapters]


class Lazy(Root):
    def test_the_first_request_brings_it(self):
        self.assertEqual(self.names(), ["loaded"])
        lazy = {name: self.ids(name) for name in ("one", "team/two", "loaded")}
        self.assertEqual(self.names(), ["loaded", "one", "team/two"])
        self.server.control.LoadLora(control.LoadLoraRequest(lora_name="by-hand", source_path="one"))
        self.assertEqual(lazy["one"], self.ids("by-hand"))
        self.assertNotEqual(lazy["one"], self.ids(""))
        self.assertNotEqual(lazy["one"], lazy["team/two"])

    def test_what_is_not_there_or_bad_leaves_no_trace(self):
        for name in ("nobody", "outside", "../root/one", "./one", "one/", "team//two", "team", "a\nb", ".."):
            serve.refused(self, lambda n=name: self.ids(n), Code.NOT_FOUND, "is loaded")
        serve.refused(self, lambda: self.ids("broken"), Code.INVALID_ARGUMENT)
        self.assertEqual(self.names(), ["loaded"])
        shutil.copyfile(self.root / "one/adapter_model.safetensors", self.root / "broken/adapter_model.safetensors")
        self.assertEqual(self.ids("broken"), self.ids("one"))

    def test_many_at_once_share_one(self):
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(self.ids("one"))) for _ in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(answers), 32)
        self.assertEqual({tuple(a) for a in answers}, {tuple(answers[0])})
        self.assertEqual(self.names(), ["loaded", "one"])

    def test_loaded_again_under_its_name_it_is_what_is_there_now(self):
        first = self.ids("one")
        self.server.control.UnloadLora(control.UnloadLoraRequest(lora_name="one"))
        shutil.rmtree(self.root / "one")
        shutil.copytree(GRANITE / "adapters/lora-qkv", self.root / "one")
        answer, call = self.server.inference.Generate.with_call(request("one"))
        self.assertEqual(serve.trailers(call)["mica-cached-tokens"], "0")
        second = list(answer.outputs.token_ids)
        self.assertEqual(second, self.ids("team/two"))
        self.assertNotEqual(second, first)

    def test_a_client_that_leaves_or_a_late_answer_breaks_nothing(self):
        for i in range(30):
            name = f"copy-{i}"
            shutil.copytree(GRANITE / "adapters/lora-all", self.root / name)
            call = self.server.inference.GenerateStream(request(name), timeout=None if i % 2 else 0.001)
            if i % 2:
                call.cancel()
        self.assertEqual(self.ids("copy-0"), self.ids("copy-29"))


    def test_bringing_loading_and_unloading_the_same_names_at_once(self):
        expected = {name: self.ids(name) for name in ("one", "team/two")}
        wrong = []

        def churn(rng):
            for _ in range(25):
                name = rng.choice(list(expected))
                what = rng.randrange(4)
                try:
                    if what == 0:
                        self.server.control.UnloadLora(control.UnloadLoraRequest(lora_name=name))
                    elif what == 1:
                        self.server.control.LoadLora(control.LoadLoraRequest(lora_name=name, source_path=name))
                    elif self.ids(name) != expected[name]:
                        wrong.append(name)
                except grpc.RpcError as e:
                    if e.code() not in (Code.NOT_FOUND, Code.ALREADY_EXISTS):
                        wrong.append(e.details())

        threads = [threading.Thread(target=churn, args=(mica.seeded(f"churn-{i}"),)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])
        self.assertEqual({name: self.ids(name) for name in expected}, expected)
        self.assertEqual(self.names(), ["loaded", "one", "team/two"])


class Tenants(Root):
    def more_flags(self):
        path = self.at / "tenants.json"
        path.write_text(serve.tenants_text(*(serve.tenant(name, adapters=adapters) for name, adapters in
                                             (("all", ["*"]), ("some", ["team/*"]), ("none", [])))))
        return ["--tenants", path]

    def test_a_tenant_brings_what_it_sees_and_nothing_else(self):
        keys = {name: serve.bearer(f"{name}-key") for name in ("all", "some", "none")}
        for name, lora in (("some", "one"), ("none", "one"), ("none", "team/two"), ("none", "nobody")):
            serve.refused(self, lambda n=name, a=lora: self.ids(a, keys[n]), Code.NOT_FOUND,
                          f"no adapter '{lora}' is loaded")
        self.assertEqual(self.names(keys["all"]), ["loaded"])
        two = self.ids("team/two", keys["some"])
        self.assertEqual(self.names(keys["some"]), ["team/two"])
        self.assertEqual(two, self.ids("team/two", keys["all"]))
        self.assertEqual(self.names(keys["none"]), [])


class Off(unittest.TestCase):
    def test_without_the_flag_nothing_is_brought(self):
        with serve.Server(GRANITE, ["--lora-root", GRANITE / "adapters"]) as server:
            serve.refused(self, lambda: server.inference.Generate(request("lora-all")), Code.NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
