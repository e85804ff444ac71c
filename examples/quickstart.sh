#!/usr/bin/env bash
# From a folder of images to an audited model: examples/quickstart.sh [FOLDER]
# FOLDER holds one directory of images per class; without it, scikit-learn's handwritten digits are used.
# Everything it makes lies in ./quickstart (or $QUICKSTART_OUT); it is made anew each time.
set -euo pipefail
source="${1:-digits}"
[ "$source" = digits ] || source="$(cd "$source" && pwd)"
cd "$(dirname "$0")/.."
. examples/setup.sh "."
out="${QUICKSTART_OUT:-quickstart}"
rm -rf "$out"
mkdir -p "$out"
group=$([ "$source" = digits ] && echo stroke || echo tone)

step() { printf '\n--- %s\n' "$*" >&2; }

step "1/6 a table of images, labels and the attribute to audit ($group)"
python examples/make_table.py "$source" "$out"

step "2/6 seerctl ingest | seerctl shard: checked images, split by content"
seerctl ingest "$out/table.csv" --rejects "$out/rejects.jsonl" | seerctl shard -o "$out/shards" --split train=0.75,test=0.25

step "3/6 seerctl pretrain: SwAV on a small RegNetY, no labels used"
seerctl pretrain --recipe nano --data "$out/shards/train" -o "$out/run"

step "4/6 seerctl extract: frozen features of both splits"
for split in train test; do
  seerctl extract --model "$out/run" --data "$out/shards/$split" -o "$out/$split.h5"
done

step "5/6 seerctl probe: nearest neighbours in feature space"
seerctl probe knn --train "$out/train.h5" --test "$out/test.h5" --target label \
  -o "$out/knn.json" --predictions "$out/predictions.csv"

step "6/6 seerctl audit --fairness: is it as good for one group as for the other?"
verdict=0
seerctl audit --fairness --predictions "$out/predictions.csv" --groups "$group" -o "$out/audit" || verdict=$?
case $verdict in
  0) word="passed" ;; 3) word="FAILED (a gap beyond the tolerance)" ;; 6) word="inconclusive (too few images to judge)" ;;
  *) exit $verdict ;;
esac

python - "$out" "$word" <<'PYTHON'
import json, sys
out, word = sys.argv[1:]
top1 = json.load(open(f"{out}/knn.json"))["metrics"]["top1"]
print(f"\nkNN top-1: {top1['value']:.1%}  (95 % interval {top1['low']:.1%} to {top1['high']:.1%}, {top1['n']} test images)")
print(f"fairness audit: {word}")
print(f"reports: {out}/knn.json  {out}/audit/report.md  {out}/audit/report.json  {out}/audit/junit.xml")
PYTHON
