"""As much of W&B's server as its client talks to, on this machine: records what it is sent and remembers runs."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """What it was sent: `sent` has every history row as often as it came, `stored` every file, by its path."""

    def __init__(self) -> None:
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, str] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        """What was asked for at first, by digest, which is how W&B knows an artifact that it has."""
        self.used: list[str] = []
        self.stored: list[tuple[str, bytes]] = []
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
                outer.stored.append((self.path, self._body()))
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
        if "rtifact" in name:
            return self._of_artifacts(query, given)
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

    def _of_artifacts(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        asked = given.get("input", {})
        if "createArtifact(" in query:
            is_known = asked["digest"] in self.artifacts
            self.artifacts.setdefault(asked["digest"], {**asked, "id": f"a{len(self.artifacts)}"})
            made = {
                "id": self.artifacts[asked["digest"]]["id"],
                "state": "COMMITTED" if is_known else "PENDING",
                "artifactSequence": {"id": "s", "name": "s", "latestArtifact": None},
            }
            return {"createArtifact": {"artifact": made}}
        if "artifactManifest {" in query:
            file = {"id": "f", "uploadUrl": f"{self.url}/storage/manifest", "uploadHeaders": []}
            what = "createArtifactManifest" if "createArtifactManifest(" in query else "updateArtifactManifest"
            return {what: {"artifactManifest": {"id": "m", "file": file}}}
        if "createArtifactFiles(" in query:
            nodes = [
                {
                    "storagePath": file["name"],
                    "uploadUrl": f"{self.url}/storage/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
                for file in asked["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if "commitArtifact(" in query:
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
        if "useArtifact(" in query:
            self.used.append(asked["artifactID"])
            return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}
        if "query ArtifactByID" in query:
            return {"artifact": self._artifact(given["id"])}
        return {"project": {"artifact": None}}

    def _artifact(self, number: str) -> dict[str, Any]:
        asked = next(one for one in self.artifacts.values() if one["id"] == number)
        project = {"id": "p", "internalId": "1", "name": "fashion-dist", "entity": {"name": "team"}}
        sequence = {"__typename": "ArtifactSequence", "name": asked["artifactCollectionName"], "project": project}
        return {
            "__typename": "Artifact",
            "id": number,
            "artifactSequence": sequence,
            "versionIndex": 0,
            "artifactType": {"name": asked["artifactTypeName"]},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 0,
            "digest": asked["digest"],
            "commitHash": "c",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }

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
