#!/bin/sh
# An entry point by a relative path: it is found from the image's working directory.
echo "tool in $(pwd) with $*"
. ./lib.sh
