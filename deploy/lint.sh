#!/usr/bin/env bash
# Everything about deploy/ that can be checked without a Docker daemon and without a cluster. Tools are taken from PATH:
# yamllint, hadolint, kubernetes-validate (pip), promtool, amtool (Debian's prometheus packages), and kubectl where it is.
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
  echo "=== NOT RUN: promtool and amtool over deploy/; make services installs them where it may ==="
fi

if command -v kubectl >/dev/null; then
  for folder in kubernetes/monitoring kubernetes/namespace kubernetes/overlays/*/; do
    kubectl kustomize "$folder" >"$made/$(basename "$folder").yaml"
  done
  kubernetes-validate --strict --quiet "$made/example.yaml" "$made/sidecar.yaml"
else
  echo "kubectl is not installed: the overlays are checked by the tests alone"
fi
echo "deploy/ is well"
