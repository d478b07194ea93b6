#!/bin/sh
#SBATCH --job-name=vmm-matrix
#SBATCH --array=1-4
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#
# A matrix as an array of Slurm's: each task runs its part, and one that is queued again goes on where it was cut off.
#
#   mkdir -p kept
#   array=$(sbatch --parsable examples/slurm.sh kept [MATRIX.toml] [OPTIONS OF vmm matrix...])
#   sbatch --dependency=afterany:$array --wrap='vmm report merge kept/part-* --out kept/whole'
#
# vmm is in PATH on every node, the folder is one that they share, and the array begins with 1.
set -eu
folder=$1
shift
exec vmm matrix "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --out "$folder/part-$SLURM_ARRAY_TASK_ID" --resume
