#!/bin/sh
# sh examples/backtracking.sh [OPTIONS OF unsay run, such as --limit 20]
#
# The study of examples/backtracking.yaml in the current folder, from nothing to its page; run again, it goes on.
set -e
here=$(dirname "$0")
if [ ! -e "$here/own_samples.jsonl" ]; then
    unsay data build "$here/backtracking.yaml" unsay-tiny/wordproblems/sft/own/seed_1 --sample 2 --output-dir outputs
fi
unsay run "$here/backtracking.yaml" --output-dir outputs "$@"
unsay report --output-dir outputs --study BACKTRACKING.md
