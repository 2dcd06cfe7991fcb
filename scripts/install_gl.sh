#!/bin/sh
# sh install_gl.sh PACKAGES: software OpenGL from Debian's packages, where nothing renders yet and we may
# install (as root, or by sudo without a password); else the command to give is printed.
run="apt-get install -y --no-install-recommends $*"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $run
elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $run
else
    echo "nothing here renders without a screen: install software OpenGL (Debian, Ubuntu: sudo $run)" >&2
    exit 1
fi
