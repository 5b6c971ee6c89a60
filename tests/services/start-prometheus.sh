#!/usr/bin/env bash
# Prometheus (with promtool) and Alertmanager (with amtool). What it scrapes stands in DATA_DIR/targets.json, which it
# reads again when the file changes.
# start-prometheus.sh DATA_DIR [PORT]   env: PORT=9090 AM_PORT=PORT+3 SCRAPE=127.0.0.1:8000 (comma between targets)
#   JOB=app RULES=file.yml (comma between files) INTERVAL=1s (of scrapes and of rules) WEBHOOK=http://... (where
#   Alertmanager sends each alert, alone and at once; without it alerts go nowhere) PROM_CONFIG=file.yml
#   AM_CONFIG=file.yml (in place of the ones made here)
DIR=${1:-}; PORT=${2:-${PORT:-9090}}; AM=${AM_PORT:-$((PORT + 3))}
. "$(dirname "$0")/lib.sh"
usage_dir "$PORT" "$AM"
need_apt curl prometheus prometheus-alertmanager
CONF=${PROM_CONFIG:-$DIR/prometheus.yml}
RULE_FILES=; for f in ${RULES//,/ }; do RULE_FILES+="\"$(realpath "$f")\","; done
every=${INTERVAL:-1s}
SCRAPE=${SCRAPE-127.0.0.1:8000}
printf '[{"targets": [%s]}]\n' "${SCRAPE:+"\"${SCRAPE//,/\",\"}\""}" >"$DIR/targets.json"
[ -n "${PROM_CONFIG:-}" ] || cat >"$CONF" <<C
global: {scrape_interval: $every, scrape_timeout: $every, evaluation_interval: $every}
rule_files: [$RULE_FILES]
alerting: {alertmanagers: [{static_configs: [{targets: ["127.0.0.1:$AM"]}]}]}
scrape_configs:
- {job_name: prometheus, static_configs: [{targets: ["127.0.0.1:$PORT"]}]}
- {job_name: "${JOB:-app}", file_sd_configs: [{files: ["$DIR/targets.json"]}]}
C
promtool check config "$CONF" >"$DIR/check.log" 2>&1 || { cat "$DIR/check.log" >&2; die "config"; }
AM_CONF=${AM_CONFIG:-$DIR/alertmanager.yml}
receiver="{name: tests}"
[ -z "${WEBHOOK:-}" ] || receiver="{name: tests, webhook_configs: [{url: \"$WEBHOOK\", send_resolved: true}]}"
[ -n "${AM_CONFIG:-}" ] || cat >"$AM_CONF" <<C
route: {receiver: tests, group_by: ["..."], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}
receivers: [$receiver]
C
amtool check-config "$AM_CONF" >"$DIR/check.log" 2>&1 || { cat "$DIR/check.log" >&2; die "config"; }
start_bg alertmanager prometheus-alertmanager --config.file="$AM_CONF" \
  --storage.path="$DIR/am" --web.listen-address="127.0.0.1:$AM" --cluster.listen-address= --log.level=warn
start_bg prometheus prometheus --config.file="$CONF" --storage.tsdb.path="$DIR/tsdb" \
  --web.listen-address="127.0.0.1:$PORT" --web.enable-lifecycle --log.level=warn
wait_for 20 alertmanager http_200 "http://127.0.0.1:$AM/-/ready"
wait_for 20 prometheus http_200 "http://127.0.0.1:$PORT/-/ready"
echo "http://127.0.0.1:$PORT"
