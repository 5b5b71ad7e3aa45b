#!/usr/bin/env bash
# Runs the proxy on conf/simple.yaml and the two demo servers it balances over.
# Ctrl-C, or the end of any of the three, stops all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pids=()
stop() {
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  # SIGTERM lets the proxy drain for seconds; nobody waits for a demo, so a second one ends it at once.
  sleep 0.2
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap stop EXIT
trap 'exit 0' INT TERM

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

for port in 8888 8889 8890; do
  if accepts "$port"; then
    echo "port $port is already in use: stop what listens there and try again" >&2
    exit 1
  fi
done

./cmd/sample/httpserver 8889 & pids+=($!)
./cmd/sample/httpserver 8890 & pids+=($!)
./sota-mesh start -c conf/simple.yaml & pids+=($!)

for port in 8889 8890 8888; do
  for ((i = 0; ; i++)); do
    accepts "$port" && break
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "a process ended before it was ready" >&2; exit 1; }
    done
    ((i < 100)) || { echo "nothing listens on port $port after 10 seconds" >&2; exit 1; }
    sleep 0.1
  done
done

cat <<'TEXT'

The proxy listens on port 8888 and balances over the demo servers on 8889 and 8890. Try, in another terminal:

    curl http://127.0.0.1:8888

/sleep goes to 8889 only, /bar to 8890 only. Ctrl-C stops everything.

TEXT
wait -n "${pids[@]}" || true
echo "one of the three processes ended; stopping the others" >&2
exit 1
