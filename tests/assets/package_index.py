"""A package index on this computer, made of archives that the tests build."""

import hashlib
import http.server
import io
import json
import tarfile
import zipfile
from pathlib import Path


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def wheel_name(name: str, version: str = "1.0") -> str:
    return f"{name}-{version}-py3-none-any.whl"


class Index:
    """A simple index that counts what is asked of it."""

    def __init__(self, folder: Path, url: str = ""):
        self.folder, self.url, self.requests = folder, url, []
        self.json = False

    def add(
        self, project: str, filename: str, content: bytes, sha256: str | None = None, size: int | None = None
    ) -> str:
        digest = hashlib.sha256(content).hexdigest()
        folder = self.folder / "files"
        folder.mkdir(exist_ok=True)
        (folder / filename).write_bytes(content)
        page = self.folder / "simple" / project
        page.mkdir(parents=True, exist_ok=True)
        stated = sha256 or digest
        with open(page / "index.html", "a") as file:
            file.write(f'<a href="../../files/{filename}#sha256={stated}">{filename}</a>\n')
        files = json.loads((page / "index.json").read_text())["files"] if (page / "index.json").exists() else []
        files = [f for f in files if f["filename"] != filename]
        files.append(
            {"filename": filename, "url": f"../../files/{filename}", "hashes": {"sha256": stated}, "size": size}
        )
        (page / "index.json").write_text(json.dumps({"files": files, "meta": {"api-version": "1.0"}, "name": project}))
        return digest

    def downloads(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("/files/")]


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, index: Index, **options):
        self.index = index
        super().__init__(*arguments, directory=str(index.folder), **options)

    def do_GET(self):
        self.index.requests.append(self.path)
        if self.index.json and self.path.endswith("/"):
            body = (self.index.folder / self.path.strip("/") / "index.json").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass
