#!/usr/bin/env bash
# Objects from files: nginx serves DATA_DIR/www/PATH at /PATH (GET, HEAD, ranges, ETag, If-Match, no auth), with
# listings in HTML; /json/PATH is the same with listings in JSON. The ceiling of what one loopback server can give.
# start-nginx.sh DATA_DIR [PORT]   env: PORT=9100 NGINX_WORKERS=1 NGINX_RATE=0 (bytes/s a connection, such as 2m; 0:
#   unlimited) NGINX_FILE_CACHE="max=20000 inactive=60s" (off shows changes of files at once)
DIR=${1:-}; PORT=${2:-${PORT:-9100}}
. "$(dirname "$0")/lib.sh"
usage_dir "$PORT"
need_apt curl nginx-light
mkdir -p "$DIR/www" "$DIR/tmp"
cat >"$DIR/nginx.conf" <<C
daemon off;
user root;
worker_processes ${NGINX_WORKERS:-1};
pid $DIR/tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;
  open_file_cache ${NGINX_FILE_CACHE:-max=20000 inactive=60s};
  limit_rate ${NGINX_RATE:-0};
  default_type application/octet-stream;
  client_body_temp_path $DIR/tmp/b; proxy_temp_path $DIR/tmp/p; fastcgi_temp_path $DIR/tmp/f;
  uwsgi_temp_path $DIR/tmp/u; scgi_temp_path $DIR/tmp/s;
  server {
    listen 127.0.0.1:$PORT; root $DIR/www;
    autoindex on;
    location = /healthz { return 200; }
    location /json/ { alias $DIR/www/; autoindex on; autoindex_format json; }
  }
}
C
start_bg nginx nginx -c "$DIR/nginx.conf"
wait_for 10 nginx http_200 "http://127.0.0.1:$PORT/healthz"
echo "http://127.0.0.1:$PORT"
