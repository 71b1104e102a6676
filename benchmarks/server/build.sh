#!/bin/sh
# Builds the server that the benchmarks measure against, from server.cc and the project's
# own proto/ensync.proto. On Debian and its descendants it needs:
#
#   apt-get install g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
#
#   build.sh DIRECTORY      puts DIRECTORY/bench_server there, unless it is up to date
set -eu

out=${1:?usage: build.sh DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../proto
program=$out/bench_server

for tool in g++ pkg-config protoc grpc_cpp_plugin; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: $0 says what to install" >&2; exit 1; }
done
pkg-config --exists grpc++ protobuf || { echo "libgrpc++-dev is missing: see $0" >&2; exit 1; }

if [ -e "$program" ] && [ "$program" -nt "$here/server.cc" ] &&
   [ "$program" -nt "$protos/ensync.proto" ]; then
  exit 0
fi

mkdir -p "$out"
protoc -I"$protos" --cpp_out="$out" --grpc_out="$out" \
  --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" "$protos/ensync.proto"
# Compiled aside, so that an interrupted build is not taken for a program.
# shellcheck disable=SC2046
g++ -O2 -std=c++17 -I"$out" "$here/server.cc" "$out/ensync.pb.cc" "$out/ensync.grpc.pb.cc" \
  -o "$program.new" $(pkg-config --cflags --libs grpc++ protobuf) -pthread
mv "$program.new" "$program"
