#!/bin/sh
# Runs one job on its node: stops it when that is wished, when its time is over, when the pilot has ended the process that
# waits for it, or when nothing is heard of the pilot any more; and ends what its program has left behind. It is in a
# session of its own, out of reach of a pilot that kills what it has started. A shell, awk and grep are all it needs.
#
#   keeper.sh WAITING_PID ATTEMPT JOB ALIVE LIMIT GRACE PATIENCE [NAME=VALUE ...]      (times in whole seconds)
waiting=$1 attempt=$2 job=$3 alive=$4 limit=$5 grace=$6 patience=$7
shift 7

now() {
  read -r now _ </proc/uptime
  now=${now%.*}
}

# The living processes of the job: those that carry its mark, descendants of these and of the script; not the one in $1.
members() {
  {
    [ -z "$script" ] || echo "/proc/$script/environ"
    grep -lzFxs -e "CCAT_WM_JOB=$job" /proc/[0-9]*/environ
    cat /proc/[0-9]*/stat 2>/dev/null
  } | awk -v self=$$ -v leave="$1" '
    /^\/proc\// { split($0, part, "/"); wanted[part[3]] = 1; next }
    { pid = $1; sub(/^.*\) /, ""); state[pid] = $1; parent[pid] = $2 }
    END {
      delete wanted[self]
      do {
        more = 0
        for (pid in parent)
          if (!(pid in wanted) && pid != self && parent[pid] in wanted) { wanted[pid] = 1; more = 1 }
      } while (more)
      for (pid in wanted)
        if (pid in state && state[pid] !~ /[ZXx]/ && pid != leave && pid ~ /^[0-9]+$/) print pid
    }'
}

send() {
  for pid in $(members "$2"); do kill -s "$1" "$pid" 2>/dev/null; done
}

# The script is to write down how its program ended, so it is left alone.
stop() {
  stopping=$1
  echo "$1" >"$attempt.stopped"
  kill_at=$((now + grace))
  send TERM "$script"
}

# One that is dead but not yet waited for has no memory.
lives() {
  read -r size _ </proc/"$1"/statm && [ "$size" != 0 ]
} 2>/dev/null

/usr/bin/env -i "$@" /bin/sh "$attempt.sh" &
script=$!
now
began=$now heard=$now pause=0.05 stopping='' last=''
while lives "$script"; do
  sleep "$pause"
  now
  if [ $((now - began)) -gt 1 ]; then pause=0.5; fi
  if [ "$stopping" ]; then
    [ "$now" -le "$kill_at" ] || send KILL "$script"
    [ "$now" -le $((kill_at + 10)) ] || kill -s KILL "$script"
    continue
  fi
  if beat='' && read -r beat <"$alive" && [ "$beat" != "$last" ]; then
    last=$beat heard=$now
  fi 2>/dev/null
  if why='' && read -r why <"$attempt.stop" && [ "$why" ]; then
    stop "$why"
  elif [ $((now - began)) -gt "$limit" ]; then
    stop time_limit
  elif [ $((now - heard)) -gt "$patience" ] || ! lives "$waiting"; then
    stop pilot
  fi 2>/dev/null
done

wait "$script"
status=$?
script='' rounds=0
while left=$(members '') && [ "$left" ] && [ "$rounds" -lt 50 ]; do
  for pid in $left; do kill -s KILL "$pid" 2>/dev/null; done
  rounds=$((rounds + 1))
  sleep 0.05
done
[ -e "$attempt.exit.json" ] || echo over >>"$attempt.stopped"
exit "$status"
