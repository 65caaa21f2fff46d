"""As much of W&B's server as its client talks to, on this machine: records what it is sent and remembers runs."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """`runs` holds each run's history rows by their number; `sent` every row as often as it came."""

    def __init__(self) -> None:
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, str] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.queries: list[str] = []
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, values: Any, status: int = 200) -> None:
                data = json.dumps(values).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _body(self) -> bytes:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

            def do_GET(self) -> None:
                self._answer({})

            def do_PUT(self) -> None:
                self._body()
                self._answer({})

            def do_POST(self) -> None:
                body = self._body()
                outer.requests.append(self.path)
                if self.path == "/graphql":
                    self._answer({"data": outer.graphql(json.loads(body))})
                elif found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                    outer.stream(found[1], json.loads(body))
                    self._answer({"exitcode": None, "limits": {}})
                else:
                    self._answer({})

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def stream(self, run: str, body: dict[str, Any]) -> None:
        files = body.get("files", {})
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.sent.setdefault(run, []).append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summaries[run] = json.loads(line)

    def lose_last_row(self, run: str) -> None:
        """As if the request that brought it had never arrived."""
        self.sent[run].pop()
        self.summaries[run] |= self.sent[run][-1]

    def rows(self, run: str) -> list[dict[str, Any]]:
        return list(self.sent.get(run, []))

    def graphql(self, body: dict[str, Any]) -> dict[str, Any]:
        query, given = body.get("query", ""), body.get("variables") or {}
        name = body.get("operationName") or (re.findall(r"(?:query|mutation)\s+(\w+)", query) or [""])[0]
        self.queries.append(name)
        run = given.get("name") or given.get("run") or ""
        if "upsertBucket" in query:
            known = run in self.configs
            self.configs[run] = json.loads(given.get("config") or "{}") or self.configs.get(run, {})
            self.groups[run] = given.get("groupName") or self.groups.get(run, "")
            return {"upsertBucket": {"bucket": self._bucket(run), "inserted": not known}}
        if "historyTail" in query:
            return {"model": {"bucket": self._resumed(run)} if run in self.configs else None}
        if "createArtifact(" in query:
            self.artifacts.append(given)
            return {
                "createArtifact": {
                    "artifact": {
                        "id": f"a{len(self.artifacts)}",
                        "state": "COMMITTED",
                        "artifactSequence": {"id": "s", "name": "s", "latestArtifact": None},
                    }
                }
            }
        if "viewer" in query:
            return {
                "viewer": {"id": "u", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}},
                "serverInfo": {
                    "cliVersionInfo": {"max_cli_version": "9.9"},
                    "latestLocalVersionInfo": None,
                    "features": [],
                },
            }
        if "createRunFiles" in query:
            return {
                "createRunFiles": {
                    "runID": run,
                    "uploadHeaders": [],
                    "files": [{"name": n, "uploadUrl": f"{self.url}/storage/{n}"} for n in given.get("files", [])],
                }
            }
        return {"serverInfo": {"features": []}}

    def _bucket(self, run: str) -> dict[str, Any]:
        return {
            "id": run,
            "name": run,
            "displayName": run,
            "description": None,
            "config": "{}",
            "sweepName": None,
            "historyLineCount": len(self.rows(run)),
            "project": {"id": "p", "name": "fashion-dist", "entity": {"id": "e", "name": "team"}},
        }

    def _resumed(self, run: str) -> dict[str, Any]:
        rows = self.rows(run)
        return {
            **self._bucket(run),
            "id": run,
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summaries.get(run, {})),
            "config": json.dumps(
                {
                    key: value if isinstance(value, dict) else {"value": value}
                    for key, value in self.configs[run].items()
                }
            ),
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
            "historyLineCount": len(rows),
        }
