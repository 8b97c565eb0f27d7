#!/bin/bash
# parity.sh: the five patterns through files alone; the mount is $SBX_MOUNT
set -euo pipefail
cd "${SBX_MOUNT:-/sbx}"

# One command, one answer.
in_vm() {
	local reply
	exec {reply}<> "$1/run"
	printf '%s\n' "$2" >&"$reply"
	cat <&"$reply"
	exec {reply}>&-
}

# 1. Create, prepare, capture: it stays paused, and resume lets it go on.
echo 'create base image=base' > ctl
in_vm base 'echo prepared > /root/ready'
echo snapshot > base/ctl
paused=$(cat base/state)
echo resume > base/ctl
echo "create: $(cat base/fs/root/ready), $paused, $(cat base/state)"

# 2. Save under a name, remove the sandbox, load by the name.
mv base/snapshots/1 snapshots/after-pip-install
rmdir base
mkdir snapshots/after-pip-install/forks/loaded
echo "save and load by name: $(cat loaded/fs/root/ready)"

# 3. Ten workers at once.
workers=()
for i in {0..9}; do
	mkdir "snapshots/after-pip-install/forks/w$i" &
	workers+=($!)
done
wait "${workers[@]}"
echo "ten workers at once: $(for i in {0..9}; do in_vm "w$i" hostname; done | paste -s -d ' ')"

# 4. With other sizes and another environment.
echo 'fork custom memory=384M cpus=2 env.WORKER_ID=42' > snapshots/after-pip-install/ctl
# shellcheck disable=SC2016 # the guest's shell expands it
echo "overrides: $(($(cat custom/memory) >> 20)) MiB, $(in_vm custom nproc) CPUs, WORKER_ID=$(in_vm custom 'echo $WORKER_ID')"

# 5. List and delete; what was forked lives on.
echo 'snapshot old-snapshot' > loaded/ctl
before=$(ls snapshots | paste -s -d ' ')
rmdir snapshots/old-snapshot
echo "list and delete: $before, then $(ls snapshots)"

rmdir snapshots/after-pip-install
[ "$(in_vm w3 'cat /root/ready')" = prepared ]
rmdir loaded custom w{0..9}
