#!/usr/bin/env bash
# How accuracy and gaps between groups grow with the size of a model: examples/scaling.sh TRAIN TEST OUT [GROUP]
# TRAIN and TEST are shard sets with the column `label`; GROUP is a column of TEST to audit. Three small RegNetYs (26 k,
# 0.55 M and 1.35 M parameters; $SIZES names others) learn from TRAIN without its labels, each is probed on TEST and
# audited, and OUT/compared holds the differences and the pictures. Needs the `report` extra.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
train="$1" test="$2" out="$3" group="${4:-}"
mkdir -p "$out"

probes=() audits=()
for size in ${SIZES:-micro pico nano}; do
  seerctl pretrain --recipe nano --data "$train" -o "$out/$size" --set model.size="$size"
  for split in train test; do
    seerctl extract --model "$out/$size" --data "${!split}" -o "$out/$size-$split.h5"
  done
  seerctl probe knn --train "$out/$size-train.h5" --test "$out/$size-test.h5" --target label \
    -o "$out/$size.json" --predictions "$out/$size.csv"
  probes+=("$out/$size.json")
  if [ -n "$group" ]; then
    verdict=0
    seerctl audit --fairness --predictions "$out/$size.csv" --groups "$group" -o "$out/$size-audit" || verdict=$?
    case $verdict in 0 | 3 | 6) ;; *) exit $verdict ;; esac
    audits+=("$out/$size-audit/report.json")
  fi
done
seerctl probe compare "${probes[@]}" ${audits[@]+"${audits[@]}"} --x params -o "$out/compared"
