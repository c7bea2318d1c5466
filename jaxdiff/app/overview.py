"""What ``jaxdiff`` says of itself: its commands, a line or two each."""

OVERVIEW = """\
jaxdiff: fast sampling and distillation of diffusion models

  jaxdiff demo                     the main job on real images, in minutes: train, sample, distil,
      measure, report
  jaxdiff train PRESET --run DIR   train a score network; PRESET is one of {presets}
  jaxdiff ema --run DIR --std 0.05 --out DIR
                                   a run's model with an average of another length
  jaxdiff distill --teacher DIR --run DIR
                                   make a student that samples in one or two network evaluations
  jaxdiff tune --run DIR --nfe 5   find the best sampler of 5 evaluations for a run, in minutes
  jaxdiff discriminate --run DIR   train a discriminator that corrects a run's samples
  jaxdiff adapt --run DIR --kind lora
                                   a small change of a run, trained and saved alone: LoRA, ...
  jaxdiff sample --run DIR         pictures from a run, with any solver
  jaxdiff optimise --run DIR       pictures by score distillation (SDS, VSD) from a run
  jaxdiff restore --run DIR --task blur IMAGES
                                   images from measurements: inpainting, super-resolution, ...
  jaxdiff edit --run DIR --label NAME IMAGES
                                   images made another class's, or a model's: SDEdit, DDIB, FlowEdit
  jaxdiff evaluate --run DIR       score a run against real images
  jaxdiff analyse --run DIR        the geometry of a run's sampling, beside null models
  jaxdiff export --run DIR         a sampler with its network as one file that needs only jax
  jaxdiff inspect PATH             what a file or folder is: a run, weights, a table, an export
  jaxdiff runs DIR                 the runs in a folder: state, steps, last loss, best score, size
  jaxdiff compare A B              runs side by side on one page: options, curves, scores, samples
  jaxdiff list KIND                solvers, grids, methods, tuners, guidance, metrics, networks,
      adapters, models or presets, with papers

DIR is the folder of a run or, for every command but train, a file or folder of published weights,
the name of their card, or module:FILE.py:FUNCTION, a function of yours that makes a model.
jaxdiff COMMAND --help names a command's options, --help-all explains each; jaxdiff --version prints
versions and devices. Completion: source <(jaxdiff --completion bash), in zsh or fish as well.
--cite, with train, distill, adapt, tune, sample or demo, prints BibTeX of what is chosen.
--config FILE, with any command, reads options from TOML or YAML, which the command line beats;
--print-config prints such a file and does nothing else.
--traceback, with any command, shows where an error comes from. Compiled programs are kept for the
next command in ~/.cache/jaxdiff, 2 GB at most; JAXDIFF_CACHE=DIR keeps them elsewhere,
JAXDIFF_CACHE=off nowhere. Started as several processes (by srun, mpirun, a Kubernetes job, on a TPU
slice, or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID), a command is one run
on all their devices.
"""
