"""The built-in tabs, registered through the same `Host` as an extension's."""

from __future__ import annotations

from modules.extension.host import Host, TabSpec
from webui.tabs import extensions, extras, history, img2img, png_info, settings, txt2img


def register(host: Host) -> None:
    host.add_tab(TabSpec("txt2img", "txt2img", txt2img.build))
    host.add_tab(TabSpec("img2img", "img2img", img2img.build))
    host.add_tab(TabSpec("inpaint", "Inpaint", img2img.build_inpaint))
    host.add_tab(TabSpec("extras", "Extras", extras.build))
    host.add_tab(TabSpec("history", "History", history.build))
    host.add_tab(TabSpec("png_info", "PNG Info", png_info.build))
    host.add_tab(TabSpec("settings", "Settings", settings.build))
    host.add_tab(TabSpec("extensions", "Extensions", extensions.build))
