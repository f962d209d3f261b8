#!/bin/sh
# Runs one PostgreSQL server for as long as one service lives. shop/embedded/server.py starts it:
#
#   watch.sh HOME [WORD ...]    the WORDs run a command without root's rights
#
# Descriptor 0 is a socket to the service. It reaches its end when the service ends, however that happens.
# Descriptor 1 is the lock file of the data home. The lock is free when the last process of this script has ended;
# the file is empty as soon as the server is being stopped.
{
home=$1
shift
umask 077
# A process manager signals every process of a service. Only the end of the service may end the server.
trap '' HUP INT PIPE TERM
trap 'cd / && rm -rf "$home/data.new" ${SOCKETS:+"$SOCKETS"} ${THROWAWAY:+"$home"}' EXIT
exec 3<&0
cd "$home" || exit

make() {
    mkdir -m 700 "$1" && chown "$OWNER" "$1"
} 2>&3
stop() {
    "$@" "$BIN/pg_ctl" stop -s -D data -m fast || "$@" "$BIN/pg_ctl" stop -s -D data -m immediate
} </dev/null >/dev/null 2>&1

[ -z "$SOCKETS" ] || make "$SOCKETS" || exit
if [ ! -e data ]; then
    make data.new || exit
    "$@" "$BIN/initdb" -D data.new --username=postgres --encoding=UTF8 --locale=C --locale-provider=builtin \
        --builtin-locale=C.UTF-8 --auth-local=trust --auth-host=reject --no-instructions ${FAST:+--no-sync} \
        </dev/null >/dev/null 2>&3 || exit
    printf '%s\n' 'CREATE ROLE shop LOGIN CREATEDB' 'CREATE DATABASE shop OWNER shop' |
        "$@" "$BIN/postgres" --single -D data.new -c exit_on_error=on -c log_min_messages=error ${FAST:+-F} postgres \
        >/dev/null 2>&3 || exit
    mv data.new data 2>&3 || exit
    # This fails if the service has ended in the meantime.
    echo made >&3 2>/dev/null || exit
fi

# The client reports errors of statements. In the log, their text would be customers' data.
settings="-c listen_addresses= -c port=5432 -c unix_socket_permissions=0700 -c max_connections=200 -c timezone=UTC \
-c log_timezone=UTC -c log_min_messages=log -c log_checkpoints=off"
# A server that is killed leaves the shared memory of mmap in its data directory, and goes with it.
fast="-c dynamic_shared_memory_type=mmap -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off \
-c wal_level=minimal -c max_wal_senders=0 -c io_method=sync"

# Every process of the server inherits the pipe of the next line as descriptor 5, so the pipe ends with the last one.
{
    "$@" "$BIN/pg_ctl" start -s -t 86400 -D data -l postgres.log -o "$settings ${FAST:+$fast} $OPTIONS" \
        5>&1 </dev/null >/dev/null 2>&3 3>&- && echo up
} | {
    { read -r _; : >lock; stop "$@"; } <&3 &
    stopper=$!
    if read -r up; then
        # The service may have ended before the server had a pid file, and then nothing has been stopped.
        if [ -s lock ]; then echo ready >&3 2>/dev/null; else stop "$@"; fi
        read -r _
    fi
    # The server has ended. If it died, pg_ctl stop would wait for what its pid names, such as a zombie.
    rm -f data/postmaster.pid
    if [ -s lock ]; then
        : >lock
        { kill -KILL "$stopper"; wait "$stopper"; } 2>/dev/null
        [ -z "$up" ] ||
            echo "shop: PostgreSQL has ended unexpectedly; $home/postgres.log may say why. Restart the service." >&2
    fi
    wait
}
exit
}
