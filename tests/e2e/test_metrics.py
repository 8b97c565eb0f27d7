# SPDX-License-Identifier: MIT
"""The file `metrics`, read as OpenMetrics 1.0 wants it, and what a text file collector gets."""
import os
import re
import subprocess

import pytest

from harness import TOP, limit, read

NAME, NUMBER = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
LABELS = r'\{([a-z_]+="(?:[^"\\\n]|\\[n"\\])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[n"\\])*")*)\}'
SUFFIXES = {"gauge": [""], "counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_count", "_sum"]}


def parse(text):
    """{family: (type, {name with labels: value})}; whatever is not as it should be fails."""
    families, name, kind = {}, None, None
    assert text.endswith("\n# EOF\n") and text.count("# EOF") == 1 and "\n\n" not in text and "\r" not in text
    for line in text.splitlines()[:-1]:
        words = line.split(" ", 3)
        if words[:2] == ["#", "TYPE"]:
            assert len(words) == 4 and re.fullmatch(NAME, words[2]) and words[2] not in families, line
            name, kind, seen = words[2], words[3], set()
            assert kind in SUFFIXES, line
            families[name] = kind, {}
        elif words[:2] in (["#", "UNIT"], ["#", "HELP"]):
            assert words[2] == name and words[1] not in seen and not families[name][1] and words[3], line
            seen.add(words[1])
            assert words[1] == "HELP" or name.endswith("_" + words[3]), line
        else:
            match = re.fullmatch(rf"({NAME})(?:{LABELS})? ({NUMBER})", line)
            assert match, line
            assert match[1] in [name + suffix for suffix in SUFFIXES[kind]], line
            key = line.rsplit(" ", 1)[0]
            assert key not in families[name][1], line
            families[name][1][key] = float(match[3])
    for name, (kind, values) in families.items():
        if kind == "histogram":
            check_histogram(name, values)
    return families


def check_histogram(name, values):
    bounds = [re.search(r'le="(.*)"', key)[1] for key in values if "_bucket" in key]
    counts = [values[f'{name}_bucket{{le="{bound}"}}'] for bound in bounds]
    assert bounds[-1] == "+Inf" and [float(b) for b in bounds] == sorted({float(b) for b in bounds})
    assert counts == sorted(counts) and counts[-1] == values[f"{name}_count"]
    assert (values[f"{name}_sum"] > 0) == (counts[-1] > 0)


def value(families, key):
    return families[re.sub(r"(_total|_count|_sum|_info)?(\{.*)?$", "", key)][1][key]


def test_it_is_open_metrics(sbx, vm):
    """Each count goes up by what was done; a scrape changes nothing, and names nobody."""
    before = parse(read(sbx / "metrics"))
    snap = vm.snapshot()
    snap.fork("one")
    snap.ctl("fork 2 more")
    snap.save("kept")
    after = parse(read(sbx / "metrics"))
    assert before.keys() == after.keys()
    for key, more in {
        "sbxfs_forks_total": 3,
        "sbxfs_fork_duration_seconds_count": 3,
        "sbxfs_capture_duration_seconds_count": 1,
        "sbxfs_save_duration_seconds_count": 1,
        "sbxfs_start_duration_seconds_count": 0,
        'sbxfs_sandboxes{state="running"}': 2,
        'sbxfs_sandboxes{state="paused"}': 1,
        "sbxfs_snapshots": 1,
    }.items():
        assert value(after, key) - value(before, key) == more, key
    for key in "sbxfs_store_size_bytes", "sbxfs_daemon_resident_max_bytes", "sbxfs_machines_memory_bytes":
        assert value(after, key) > 0, key
    assert sum(value(after, f'sbxfs_starts_total{{boot="{boot}"}}') for boot in ("cold", "warm")) >= 1
    assert '"vm"' not in read(sbx / "metrics")


def test_a_sandbox_that_sleeps_is_counted(sbx, vm):
    def counted():
        families = parse(read(sbx / "metrics"))
        return {state: value(families, f'sbxfs_sandboxes{{state="{state}"}}') for state in ("running", "suspended")}

    before = counted()
    vm.ctl("suspend")
    assert counted() == {"running": before["running"] - 1, "suspended": before["suspended"] + 1}


def test_each_sandbox_where_it_is_asked_for(own_mount):
    mount = own_mount(options=("--metrics-sandboxes",))
    vm = mount.create("vm")
    mount.create("idle", start=False)
    families = parse(read(mount / "metrics"))
    cpu = families["sbxfs_sandbox_cpu_seconds"][1]
    assert list(cpu) == ['sbxfs_sandbox_cpu_seconds_total{sandbox="vm"}'] and cpu[list(cpu)[0]] > 0
    assert families["sbxfs_sandbox_memory_bytes"][1] == {'sbxfs_sandbox_memory_bytes{sandbox="vm"}': 256 << 20}
    resident, private = (families[f"sbxfs_sandbox_memory_{what}_bytes"][1] for what in ("resident", "private"))
    of_it = [f'sbxfs_sandbox_memory_{what}_bytes{{sandbox="vm"}}' for what in ("resident", "private")]
    assert list(resident) == of_it[:1] and list(private) == of_it[1:]
    assert resident[of_it[0]] > private[of_it[1]] > 1 << 20
    vm.remove()
    families = parse(read(mount / "metrics"))
    assert families["sbxfs_sandbox_cpu_seconds"][1] == families["sbxfs_sandbox_memory_private_bytes"][1] == {}


@pytest.mark.any_engine
def test_a_text_file_collector_gets_it(sbx, tmp_path):
    """In the older format: the name of a family is that of its values, and each has a type."""
    argv = [TOP / "examples/metrics-textfile/metrics-textfile", tmp_path]
    subprocess.run(argv, env=dict(os.environ, SBX_MOUNT=str(sbx.path)), check=True, timeout=limit(20))
    assert os.listdir(tmp_path) == ["sbxfs.prom"]
    text = (tmp_path / "sbxfs.prom").read_text()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    assert kinds["sbxfs_forks_total"] == "counter" and kinds["sbxfs_build_info"] == "gauge"
    assert set(re.findall(r"^# HELP (\S+) ", text, re.M)) == set(kinds) and "# EOF" not in text and "UNIT" not in text
    for name in re.findall(r"^([a-z_]+)", text, re.M):
        family = re.sub("_(bucket|count|sum)$", "", name)
        assert name in kinds or kinds[family] == "histogram", name
