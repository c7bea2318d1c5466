"""Published MNIST models: sampled in ten evaluations and fewer, tuned, guided by a worse one."""
