"""The application around the library: configurations, runs, model files and the commands.

A command is a function of one typed configuration (:mod:`jaxdiff.app.config`), each in a module of
its name: demo, train, distill, tune, sample, evaluate, export. What they stand on, from below:

    options, config, presets     numbers that options may be; the configurations, and their files
    data, network                the data of a run; networks of a configuration
    student_file, models         what a file of a model says, and the model made of it
    methods, folder, load        how a run is trained; its folder; its model, finished or not
    samplers, generate           the sampler that options describe; many samples
    evaluator, references        scores against real images
"""
