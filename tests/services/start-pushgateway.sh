#!/usr/bin/env bash
# Prometheus Pushgateway, in memory.   start-pushgateway.sh DATA_DIR [PORT]   env: PORT=9091
DIR=${1:-}; PORT=${2:-${PORT:-9091}}
. "$(dirname "$0")/lib.sh"
usage_dir "$PORT"
need_apt curl prometheus-pushgateway
start_bg pushgateway prometheus-pushgateway --web.listen-address="127.0.0.1:$PORT" --persistence.file= --log.level=warn
wait_for 20 pushgateway http_200 "http://127.0.0.1:$PORT/-/ready"
echo "http://127.0.0.1:$PORT"
