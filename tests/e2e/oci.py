# SPDX-License-Identifier: MIT
"""Container images made by tests: layers of entries, OCI layouts and docker archives; and what is in an ext4 image."""
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile

MTIME = 1700000000.25


def entry(name, data=None, kind=tarfile.REGTYPE, link="", mode=0o644, uid=0, gid=0, xattrs=None, device=(0, 0)):
    """A member of a layer: (TarInfo, bytes)."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.uid, info.gid, info.mtime = kind, link, mode, uid, gid, MTIME
    info.devmajor, info.devminor = device
    info.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in (xattrs or {}).items()}
    data = data.encode() if isinstance(data, str) else data or b""
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def directory(name, **how):
    return entry(name, kind=tarfile.DIRTYPE, **{"mode": 0o755, **how})


def symlink(name, to):
    return entry(name, kind=tarfile.SYMTYPE, link=to, mode=0o777)


def hardlink(name, to):
    return entry(name, kind=tarfile.LNKTYPE, link=to)


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def packed(data, how):
    if how == "gzip":
        return gzip.compress(data, 1)
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
    return data


class Layout:
    """An OCI layout in a directory."""

    def __init__(self, path):
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests = []
        self.write_index()

    def blob(self, data, kind):
        (self.path / "blobs/sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def json(self, value, kind):
        return self.blob(json.dumps(value).encode(), f"application/vnd.oci.image.{kind}.v1+json")

    def write_index(self):
        index = {"schemaVersion": 2, "manifests": self.manifests}
        (self.path / "index.json").write_text(json.dumps(index))

    def add(self, tag, layers, how="gzip", config=None, diffs=None):
        """An image of layers, which are lists of entries or the bytes of a tar."""
        tars = [layer if isinstance(layer, bytes) else tar(layer) for layer in layers]
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "": ""}[how]
        kind = f"application/vnd.oci.image.layer.v1.tar{suffix}"
        blobs = [self.blob(packed(data, how), kind) for data in tars]
        config = self.json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": config or {},
                "rootfs": {"type": "layers", "diff_ids": diffs or [digest(data) for data in tars]},
            },
            "config",
        )
        manifest = self.json({"schemaVersion": 2, "config": config, "layers": blobs}, "manifest")
        manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(manifest)
        self.write_index()
        return manifest

    def archive(self, path):
        subprocess.run(["tar", "cf", path, "-C", self.path, "."], check=True)
        return path


def docker_archive(path, layers, config=None, tag="name:latest", how="", names=None):
    """As `docker save` wrote them: a layer is ID/layer.tar."""
    tars = [tar(layer) for layer in layers]
    names = names or [f"{digest(data)[7:]}/layer.tar" for data in tars]
    text = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": config or {}, "rootfs": {"diff_ids": [*map(digest, tars)]}}
    ).encode()
    config = f"{digest(text)[7:]}.json"
    manifest = json.dumps([{"Config": config, "RepoTags": [tag], "Layers": names}]).encode()
    members = [entry(config, text), *map(entry, names, tars), entry("manifest.json", manifest)]
    path.write_bytes(packed(tar(members), how))
    return path


# ---- what an ext4 filesystem holds, as e2fsprogs sees it


def debugfs(disk, commands):
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-f", "-", disk], input=("\n".join(commands) + "\n").encode(errors="surrogateescape"), capture_output=True, check=True
    )
    return done.stdout.decode(errors="surrogateescape")


def describe(disk, paths, work):
    """What is known of each path: type, mode, owner, links, time, attributes, content. `paths` are str."""
    out = debugfs(disk, [f'stat "/{p}"' for p in paths] + [f'dump "/{p}" {work}/{i}' for i, p in enumerate(paths)])
    parts = out.split("debugfs: stat ")[1:]
    found = {}
    for i, (path, text) in enumerate(zip(paths, parts)):
        if "Inode:" not in text:
            continue
        get = lambda pattern: re.search(pattern, text).group(1)  # noqa: E731
        kind = get(r"Type: (\w+)")
        facts = {
            "kind": kind,
            "inode": int(get(r"Inode: (\d+)")),
            "mode": int(get(r"Mode: +(\d+)"), 8),
            "owner": (int(get(r"User: +(\d+)")), int(get(r"Group: +(\d+)"))),
            "links": int(get(r"Links: (\d+)")),
            "mtime": tuple(int(x, 16) for x in re.search(r"mtime: 0x(\w+):(\w+)", text).groups()),
            "xattrs": dict(re.findall(r"^  ((?:user|security|trusted)\.\S+) \(\d+\) = (.*?) ?$", text, re.M)),
        }
        if kind == "regular":
            facts["data"] = (work / str(i)).read_bytes()
        elif kind == "symlink":
            fast = re.search(r'Fast link dest: "(.*)"', text)
            facts["data"] = fast.group(1) if fast else (work / str(i)).read_bytes().decode()
        found[path] = facts
    return found


def names(disk, path=""):
    """All paths below the root, but lost+found."""
    out = debugfs(disk, [f'ls -p "/{path}"'])
    for line in out.splitlines():
        parts = line.split("/")
        if len(parts) < 7 or parts[5] in (".", "..") or (not path and parts[5] == "lost+found"):
            continue
        name = f"{path}/{parts[5]}" if path else parts[5]
        yield name
        if parts[2].startswith("04"):
            yield from names(disk, name)
