"""diffusers' autoencoder with the weights of one of our models, for tests that compare the two."""

from __future__ import annotations

from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from modules.checkpoints.model import LatentDiffusion


def diffusers_vae(model: LatentDiffusion) -> AutoencoderKL:
    """Built from the model's configuration, in evaluation mode."""
    config = model.config.vae
    vae = AutoencoderKL(
        block_out_channels=tuple(config.channels * m for m in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=config.norm_groups,
        scaling_factor=model.config.latent.scale,
    )
    state = {f"first_stage_model.{k}": v for k, v in model.vae.state_dict().items()}
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, dict(vae.config)))
    return vae.eval()
