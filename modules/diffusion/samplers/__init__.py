"""Samplers, one function and one loop each, as the papers write them.

``x`` is a tensor of any float type, sigmas are floats. ``denoise(x, sigma, step)`` gives x0; ``d`` is the derivative
dx/dsigma of the probability-flow ODE, (x - x0) / sigma (Karras et al. 2022, arXiv:2206.00364, eq. 3). No file here
needs torch: tensors bring their arithmetic with them.
"""

from modules.diffusion.samplers.ancestral import (
    ddpm,
    dpm_2_ancestral,
    dpmpp_2s_ancestral,
    euler_ancestral,
    lcm,
    lcm_boundary,
    lcm_levels,
    predictor_corrector,
)
from modules.diffusion.samplers.ddim import ddim, ddim_cfgpp, plms
from modules.diffusion.samplers.dpm_solver import dpm_adaptive, dpm_fast
from modules.diffusion.samplers.multistep import deis, dpmpp_2m, ipndm, lms
from modules.diffusion.samplers.ode import dpm_2, euler, heun, heunpp2, restart
from modules.diffusion.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from modules.diffusion.samplers.unipc import own_unipc, unipc

__all__ = [
    "ddim",
    "ddim_cfgpp",
    "ddpm",
    "deis",
    "dpm_2",
    "dpm_2_ancestral",
    "dpm_adaptive",
    "dpm_fast",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "heun",
    "heunpp2",
    "ipndm",
    "lcm",
    "lcm_boundary",
    "lcm_levels",
    "lms",
    "own_unipc",
    "plms",
    "predictor_corrector",
    "restart",
    "unipc",
]
