"""The page for operators: each of its commands works as it stands there, one after the other, as root on a machine.

The machine is this one under an overlay, so nothing of it changes, with a network of its own once the packages are
there. The servers of the distribution are real; systemd is a stand-in that starts what the units say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_docs import DOCS, REPOSITORY, blocks

PAGE = DOCS / "installation.md"
STAND_IN = REPOSITORY / "tests" / "stand_ins" / "systemd.py"
PASSWORD = "vKq3-xW81-p0"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_WORLD = """
mount -t tmpfs none "$1/over"
mkdir "$1/over/upper" "$1/over/work" "$1/over/machine"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/over/upper",workdir="$1/over/work" "$1/over/machine"
for each in /proc /dev /sys "$1/here"; do
  mkdir -p "$1/over/machine$each"
  mount --rbind "$each" "$1/over/machine$each"
done
mount -t proc proc "$1/over/machine/proc"
cat >"$1/over/machine/page.sh" <<END
cd $1/here/checkout
. $1/here/install.sh
exec unshare --net sh -ex $1/here/serve.sh
END
exec chroot "$1/over/machine" sh -ex /page.sh
"""

_POSTGRES = """
cluster=/var/lib/postgresql/of-the-page
install -d -o postgres -g postgres "$cluster" /var/run/postgresql
programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
runuser -u postgres -- "$programs/initdb" -D "$cluster" -A peer >/dev/null
printf 'local all postgres peer\\nlocal all all scram-sha-256\\n' >"$cluster/pg_hba.conf"
runuser -u postgres -- "$programs/pg_ctl" -w -D "$cluster" -l "$cluster/log" \\
  -o "-c listen_addresses= -c unix_socket_directories=/var/run/postgresql -c fsync=off" start
"""

_EDIT = f"""
sed -i -e 's#ccat:CHANGE-ME@db.example.org/ccat#ccat:{PASSWORD}@/ccat?host=/var/run/postgresql#' \\
  -e 's#CHANGE-ME@redis.example.org#{PASSWORD}@127.0.0.1#' -e 's#BACKEND=slurm#BACKEND=local#' \\
  /etc/ccat-workflow-manager/environment
ip link set lo up
redis-server --requirepass {PASSWORD} --daemonize yes --dir /tmp --save '' >/dev/null
"""

_JUDGE = """
for unit in ccat-wm-manager ccat-wm-worker@1 ccat-wm-worker@2; do
  test "$(stat -c %U /proc/$(cat "$STAND_IN_SYSTEMD/$unit.pid"))" = "$user"
done
curl --fail --silent --retry 240 --retry-delay 1 --retry-connrefused http://127.0.0.1:8000/readyz
wm=/opt/ccat-workflow-manager/bin/ccat-wm
secret=$(as_service $wm token create --role viewer --name "judge $$-$(date +%s)" | grep -o 'ccatwm_[^ ]*')
for try in $(seq 240); do
  workers=$(curl --fail --silent -H "Authorization: Bearer $secret" http://127.0.0.1:8000/api/v1/workers)
  test "$(echo "$workers" | grep -o '"pid"' | wc -l)" = 2 && break
  sleep 1
done
echo "workers: $workers"
"""


def _write(path: Path, *parts: str) -> None:
    path.write_text("set -ex\n" + "\n".join(parts))


@pytest.mark.slow
@pytest.mark.needs("root", "servers of the distribution", "apptainer")
def test_the_commands_of_the_page_install_a_site(tmp_path: Path) -> None:
    here = tmp_path / "here"
    for directory in (tmp_path / "over", here / "checkout", here / "bin", here / "running"):
        directory.mkdir(parents=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        (target := here / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)
    for program in ("systemctl", "systemd-run"):
        (here / "bin" / program).write_text(f"#!/usr/bin/python3\n{STAND_IN.read_text()}")
        (here / "bin" / program).chmod(0o755)
    user, databases, package, settings, check, services, _journal, update = blocks(PAGE, "sh")
    # The password, which createuser asks for twice.
    databases = databases.replace("--pwprompt ccat", f"--pwprompt ccat <<END\n{PASSWORD}\n{PASSWORD}\nEND")
    _write(here / "install.sh", user, _POSTGRES, databases, package)
    _write(here / "serve.sh", user.splitlines()[0], settings, _EDIT, check, services, _JUDGE, update, _JUDGE)
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {"PATH": f"{here}/bin:{SEARCH_PATH}", "HOME": "/root", "STAND_IN_SYSTEMD": str(here / "running")}
    wrapper = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-exc", _WORLD, "sh", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            wrapper, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
            start_new_session=True,
        )  # fmt: skip
    said = (tmp_path / "log").read_text(errors="replace")
    logs = "\n".join(each.read_text()[-2000:] for each in (here / "running").glob("*.log"))
    assert done.returncode == 0, said[-6000:] + logs
    assert said.count('"pid"') >= 4
