from modules import SamplerSpec


def register(host):
    host.add_sampler(SamplerSpec("Undeclared", lambda denoise, x, sigmas, **more: x))
