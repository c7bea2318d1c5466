"""Operators: what a measurement sees of a sample, and the measurement itself.

| operator | function | decomposition |
|---|---|---|
| inpainting, a mask or a box, of signals and images | :func:`mask`, :func:`box` | yes |
| any matrix, random projections | :func:`matrix`, :func:`random_matrix` | yes |
| compressed sensing by Walsh-Hadamard | :func:`hadamard` | yes |
| one matrix for each axis | :func:`separable` | yes |
| super-resolution by averages, bicubic, or decimation | :func:`average`, :func:`bicubic`, :func:`decimate` | yes |
| grey from colour | :func:`grey` | yes |
| Gaussian blur, axis by axis | :func:`gaussian_blur` | yes |
| blur by any kernel (Gaussian, motion), periodic | :func:`convolution` | yes |
| any linear function | :func:`linear` | if given, or :func:`decomposed` |
| product, multiple, several as one | :func:`compose`, :func:`scale`, :func:`stack` | of multiples |
| any function | :func:`nonlinear` | no |
| magnitudes of a Fourier transform, JPEG's quantisation | :func:`phase_retrieval`, :func:`jpeg` | no |

    A = operators.average((32, 32, 3), 4)
    seen = operators.measure(A, x0, 0.05, key)         # or Measurement(A, observation, 0.05)
    A.apply(x0), A.transpose(u), A.pseudo_inverse(u), A.svd

What a conditional network is shown of a measurement, and batches to train it on
(:class:`jaxdiff.networks.Beside`):

    beside(seen), measured_batches(data, observing(A, (0.0, 0.2)))
    observing(random_box((32, 32, 3)))                         # a hole of its own for each sample
"""  # noqa: E501

from jaxdiff.conditioning.operators.algebra import Operator as Operator
from jaxdiff.conditioning.operators.algebra import compose as compose
from jaxdiff.conditioning.operators.algebra import scale as scale
from jaxdiff.conditioning.operators.algebra import stack as stack
from jaxdiff.conditioning.operators.circular import convolution as convolution
from jaxdiff.conditioning.operators.circular import gaussian_kernel as gaussian_kernel
from jaxdiff.conditioning.operators.circular import motion_kernel as motion_kernel
from jaxdiff.conditioning.operators.linear import Basis as Basis
from jaxdiff.conditioning.operators.linear import Linear as Linear
from jaxdiff.conditioning.operators.linear import decomposed as decomposed
from jaxdiff.conditioning.operators.linear import linear as linear
from jaxdiff.conditioning.operators.matrices import box as box
from jaxdiff.conditioning.operators.matrices import hadamard as hadamard
from jaxdiff.conditioning.operators.matrices import mask as mask
from jaxdiff.conditioning.operators.matrices import matrix as matrix
from jaxdiff.conditioning.operators.matrices import random_matrix as random_matrix
from jaxdiff.conditioning.operators.measurement import Measurement as Measurement
from jaxdiff.conditioning.operators.measurement import measure as measure
from jaxdiff.conditioning.operators.nonlinear import Nonlinear as Nonlinear
from jaxdiff.conditioning.operators.nonlinear import jpeg as jpeg
from jaxdiff.conditioning.operators.nonlinear import nonlinear as nonlinear
from jaxdiff.conditioning.operators.nonlinear import phase_retrieval as phase_retrieval
from jaxdiff.conditioning.operators.observing import Observe as Observe
from jaxdiff.conditioning.operators.observing import beside as beside
from jaxdiff.conditioning.operators.observing import measured_batches as measured_batches
from jaxdiff.conditioning.operators.observing import observing as observing
from jaxdiff.conditioning.operators.observing import random_box as random_box
from jaxdiff.conditioning.operators.separable import average as average
from jaxdiff.conditioning.operators.separable import bicubic as bicubic
from jaxdiff.conditioning.operators.separable import decimate as decimate
from jaxdiff.conditioning.operators.separable import gaussian_blur as gaussian_blur
from jaxdiff.conditioning.operators.separable import grey as grey
from jaxdiff.conditioning.operators.separable import separable as separable
