"""The harnesses themselves: a comparison that can't see a difference would always pass."""

import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/parity"))

import case as cases
import compare
import run as parity


def loaded(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.case"
        path.write_text(textwrap.dedent(text))
        return cases.load(path)


class CaseFiles(unittest.TestCase):
    def test_sections_and_bytes(self):
        case = loaded("""\
            === comment
            words
            === route_config
            name: local
            === reply slow
            %wait 0.5
            HTTP/1.1 200 OK
            content-length: 0

            === exchange first responses=2 head listener=other
            GET /\\x41\\r HTTP/1.1
            half\\
            %fill 3

            %read
            === stats
            http.front.a
            """)
        self.assertEqual(case.replies["slow"], [("wait", 0.5), ("send", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")])
        exchange = case.exchanges[0]
        self.assertEqual(exchange.steps, [("send", b"GET /A\r HTTP/1.1\r\nhalfxxx\r\n"), ("read", None)])
        self.assertEqual((exchange.responses, exchange.logs, exchange.head, exchange.listener), (2, 3, True, "other"))
        self.assertEqual(case.stats, ["http.front.a"])
        filled = case.bootstrap({"origin": 1, "log": "/l"})
        self.assertIn("\n            name: local\n", filled)
        self.assertNotIn("{{", filled)

    def test_mistakes_are_errors(self):
        for text in ("=== nonsense\n", "=== exchange a option\n", "=== exchange a\n%dance\n"):
            with self.assertRaises(cases.CaseError):
                loaded(text)

    def test_all_cases_load_and_their_names_differ(self):
        for case in parity.select([]):
            names = [exchange.name for exchange in case.exchanges]
            self.assertEqual(len(names), len(set(names)), case.name)
            self.assertTrue(names, case.name)


class Comparison(unittest.TestCase):
    def test_values_that_vary_are_made_equal(self):
        seen = {}
        fields = [("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("x-request-id", "2b4f2f1e-1111-4222-8333-444455556666"),
                  ("x-envoy-upstream-service-time", "12"), ("x-to", "127.0.0.1:12345"), ("a", "1"), ("A", "2")]
        compare.add_fields(seen, "h:", fields, {12345: "<origin>"})
        self.assertEqual(seen, {"h:date": "<date>", "h:x-request-id": "<uuid>", "h:x-envoy-upstream-service-time": "<number>",
                                "h:x-to": "127.0.0.1:<origin>", "h:a": "1 || 2"})

    def test_differences_are_seen_and_judged(self):
        envoy = {"one": {"status": "200", "header:a": "1"}, "": {"stat:x": "1"}}
        ours = {"one": {"status": "200", "header:b": "1"}, "": {"stat:x": "2"}}
        found = compare.differences(envoy, ours)
        self.assertEqual(found, [("one", "header:a", "1", "-"), ("one", "header:b", "-", "1"), ("", "stat:x", "1", "2")])
        case = cases.Case("some")
        rest, used = parity.judge(case, found, ["some/one header:*", "some/two status"])
        self.assertEqual((rest, used), ([("some/ stat:x", "1", "2")], {"some/one header:*"}))
        self.assertEqual(parity.judge(case, found, ["some/* *"])[0], [])


if __name__ == "__main__":
    unittest.main()
