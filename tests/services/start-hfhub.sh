#!/usr/bin/env bash
# Hugging Face Hub, read-only, for dataset repos: olah answers the API from git repos, nginx
# in front answers file GETs (ranges, ETag, X-Repo-Commit) from the same files, at any commit that
# was published: hub_publish.py DATA_DIR ORG/NAME commits the files in DATA_DIR/mirror/datasets/ORG/NAME.
# HF_REPOS=REPOS_DIR start-hfhub.sh DATA_DIR [PORT]   REPOS_DIR/ORG/NAME/... are plain files
#   env: PORT=8090 OLAH_PORT=PORT+1 VENV=DATA_DIR/venv. Clients: HF_ENDPOINT=<the printed URL>.
DIR=${1:-}; PORT=${2:-${PORT:-8090}}; UP=${OLAH_PORT:-$((PORT + 1))}
. "$(dirname "$0")/lib.sh"
usage_dir "$PORT" "$UP"
[ -d "${HF_REPOS:-}" ] || die "set HF_REPOS to a folder with ORG/NAME/ folders of files"
need_apt curl git nginx-light
V=${VENV:-$DIR/venv}; need_venv "$V" 'olah==0.5.4'
F=$DIR/files; M=$DIR/mirror/datasets; rm -rf "$DIR/mirror" "$F" "$DIR/shown" "$DIR/olah"
mkdir -p "$F" "$M" "$DIR/olah" "$DIR/tmp"
for d in "$HF_REPOS"/*/*/; do
  [ -d "$d" ] || continue
  r=$(basename "$(dirname "$d")")/$(basename "$d"); mkdir -p "$M/$r"; cp -r "$d." "$M/$r/"
  "$V/bin/python" "$(dirname "$0")/hub_publish.py" "$DIR" "$r" >"$DIR/publish.log"
done
cat >"$DIR/olah.toml" <<C
[basic]
host = "127.0.0.1"
port = $UP
repos-path = "$DIR/olah/repos"
log-path = "$DIR/olah/log"
mirrors-path = ["$DIR/mirror"]
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:$PORT"
mirror-lfs-netloc = "127.0.0.1:$PORT"
[accessibility]
offline = true
C
cat >"$DIR/nginx.conf" <<C
daemon off;
user root;
worker_processes 1;
pid $DIR/tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log $DIR/access.log;
  sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path $DIR/tmp/b; proxy_temp_path $DIR/tmp/p; fastcgi_temp_path $DIR/tmp/f;
  uwsgi_temp_path $DIR/tmp/u; scgi_temp_path $DIR/tmp/s;
  default_type application/octet-stream;
  map \$realpath_root \$oid { default ""; "~/shown/[0-9a-f]+/(?<o>[0-9a-f]+)\$" \$o; }
  map \$realpath_root \$commit { default ""; "~/shown/(?<c>[0-9a-f]+)/" \$c; }
  server {
    listen 127.0.0.1:$PORT;
    set \$repo ""; set \$rev "";
    location ~ ^/datasets/(?<repo_>[^/]+/[^/]+)/resolve/(?<rev_>[^/]+)/(?<file>.+)\$ {
      set \$repo \$repo_; set \$rev \$rev_;
      if (!-d $F/\$repo) { return 401; }
      if (!-d $F/\$repo/\$rev) { return 404; }
      error_page 401 = @norepo;
      error_page 404 = @nofile;
      root $F/\$repo/\$rev/\$file;
      etag off;
      add_header ETag "\"\$oid\"";
      add_header X-Repo-Commit \$commit;
      try_files /data =404;
    }
    location @norepo { internal; add_header X-Error-Code RepoNotFound always; return 401; }
    location @nofile {
      internal;
      set \$code EntryNotFound;
      if (!-d $F/\$repo/\$rev) { set \$code RevisionNotFound; }
      add_header X-Error-Code \$code always;
      return 404;
    }
    location ~ ^/api/datasets/[^/]+/[^/]+\$ { rewrite ^(.*)\$ \$1/revision/main break; proxy_pass http://127.0.0.1:$UP; }
    location / { proxy_pass http://127.0.0.1:$UP; proxy_set_header Host \$http_host; }
  }
}
C
nginx -t -q -c "$DIR/nginx.conf" 2>"$DIR/nginx-test.log" || { cat "$DIR/nginx-test.log" >&2; die "nginx config"; }
cd "$DIR" # olah writes logs/ where it starts
start_bg olah "$V/bin/olah-cli" -c "$DIR/olah.toml"
wait_for 30 olah http_ok "http://127.0.0.1:$UP/"
start_bg nginx nginx -c "$DIR/nginx.conf"
wait_for 10 nginx http_ok "http://127.0.0.1:$PORT/"
echo "http://127.0.0.1:$PORT"
