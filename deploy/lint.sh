#!/usr/bin/env bash
# Checks deploy/ as far as possible without a Docker daemon and a cluster. Tools come from PATH: yamllint, hadolint,
# kubernetes-validate (pip), promtool, amtool (Debian's prometheus packages), and kubectl if it is installed.
set -euo pipefail
cd "$(dirname "$0")"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

yamllint --strict -c yamllint.yaml .
hadolint Dockerfile
kubernetes-validate --strict --quiet kubernetes/base/job.yaml kubernetes/namespace/network-policy.yaml

if command -v promtool >/dev/null && command -v amtool >/dev/null; then
  promtool check config prometheus.yml >/dev/null
  promtool test rules alerts_test.yml >/dev/null
  amtool check-config alertmanager.yml >/dev/null
else
  echo "=== NOT RUN: promtool and amtool over deploy/; make services installs them if it can ==="
fi

if command -v kubectl >/dev/null; then
  for folder in kubernetes/monitoring kubernetes/namespace kubernetes/overlays/*/; do
    kubectl kustomize "$folder" >"$made/$(basename "$folder").yaml"
  done
  kubernetes-validate --strict --quiet "$made/example.yaml" "$made/sidecar.yaml"
else
  echo "kubectl is not installed: only the tests check the overlays"
fi
echo "deploy/ is valid"
