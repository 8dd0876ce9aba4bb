"""Hundreds of streams at once: each gets all of its tokens in order, whoever ends early."""
import json
import pathlib
import shutil
import tempfile
import threading
import unittest

import mica
import serve
from serve import inference

GRANITE = mica.GOLDEN / "granite"
STREAMS, TOKENS, CANCELLED_AT = 600, 40, 20


def request(tokens):
    r = inference.GenerateRequest()
    r.token_ids.ids.extend(range(5, 13))
    r.stopping.max_new_tokens = tokens
    r.stopping.ignore_eos = True
    r.response.output_token_ids = True
    return r


class Streams(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        model = pathlib.Path(cls.folder.name)
        for name in ("config.json", "tokenizer.json"):
            shutil.copy(GRANITE / name, model)
        cls.vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        cls.server = serve.Server(model, [*serve.slow_device(), "--max-num-seqs", STREAMS,
                                          "--max-num-batched-tokens", 8 * STREAMS, "--max-model-len", 128])

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        cls.folder.cleanup()
        assert status == 0

    def run_streams(self, tokens, cancelled=lambda _: False):
        """-> each stream's messages, as lists of tokens; streams that are cancelled end in the middle"""
        calls = [self.server.inference.GenerateStream(request(tokens), timeout=60) for _ in range(STREAMS)]
        found = [[] for _ in calls]

        def read(i):
            for m in calls[i]:
                found[i].append(list(m.outputs.token_ids))
                if cancelled(i) and sum(map(len, found[i])) >= CANCELLED_AT:
                    calls[i].cancel()
                    return
        threads = [threading.Thread(target=read, args=(i,)) for i in range(STREAMS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return found

    def check(self, messages, tokens):
        self.assertEqual([t for m in messages for t in m], [i % self.vocab for i in range(tokens)])

    def test_each_has_all_of_its_tokens_in_order(self):
        for messages in self.run_streams(TOKENS):
            self.check(messages, TOKENS)

    def test_a_single_stream_has_a_message_a_token(self):
        messages = [list(m.outputs.token_ids) for m in self.server.inference.GenerateStream(request(20), timeout=60)]
        self.check(messages, 20)
        self.assertGreater(len(messages), 10)  # two may meet where this machine is slow

    def test_others_go_on_when_some_are_cancelled(self):
        found = self.run_streams(TOKENS, cancelled=lambda i: i % 2)
        for messages in found[::2]:
            self.check(messages, TOKENS)
        for messages in found[1::2]:
            self.check(messages, sum(map(len, messages)))
        self.check([list(m.outputs.token_ids) for m in self.server.inference.GenerateStream(request(9))], 9)


if __name__ == "__main__":
    unittest.main()
