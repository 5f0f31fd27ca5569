"""The look of the page: one theme, light and dark, and the style of its own pieces."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ULTRAMARINE = gr.themes.Color(
    c50="#eff1fd", c100="#dfe3fb", c200="#c2c9f6", c300="#9ba6ee", c400="#7480e3", c500="#515bd6",
    c600="#3f45bd", c700="#343899", c800="#2b2e78", c900="#24275f", c950="#171838", name="ultramarine",
)  # fmt: skip
STONE = gr.themes.Color(
    c50="#faf9f7", c100="#f4f2ee", c200="#e8e4dd", c300="#d5cfc5", c400="#a69f94", c500="#78716a",
    c600="#5a544f", c700="#443f3c", c800="#2b2826", c900="#1d1b1a", c950="#131211", name="pigment_stone",
)  # fmt: skip

HEADER = """
<div class="pg-brand">
  <svg viewBox="0 0 44 32" aria-hidden="true"><circle cx="14" cy="13" r="11" fill="#e4572e"/>
  <circle cx="28" cy="13" r="11" fill="#3f45bd" fill-opacity=".82"/>
  <circle cx="21" cy="21" r="10" fill="#f2b134" fill-opacity=".82"/></svg>
  <h1>Pigment</h1><span>Teach a model what you draw. Mix it. Take it away.</span>
</div>
"""


# Gradio confines `css` to what lies inside the page's frame; the frame's own margin is set from outside.
_FRAME = """
<style>@media (max-width: 640px) { .gradio-container .main.app { padding: 10px 12px !important; } }
body.pg-lost::after {
  content: "Pigment doesn’t answer; is it still running? This page goes on when it is back.";
  position: fixed; inset: auto 12px 12px; margin: 0 auto; width: fit-content; max-width: 640px; z-index: 60;
  padding: 10px 16px; border-radius: 10px; background: #131211; color: #fff; border: 1px solid #78716a;
  font: 14px/1.4 system-ui, sans-serif; }</style>
"""


HEAD_SCRIPTS = ("page", "compare", "mix")
"""Run once per page: what all widgets share, and the page's own elements."""


def theme() -> gr.themes.Base:
    """Warm paper, ultramarine accents, no gradients and hardly any shadow."""
    return gr.themes.Base(
        primary_hue=ULTRAMARINE,
        secondary_hue=ULTRAMARINE,
        neutral_hue=STONE,
        radius_size=gr.themes.sizes.radius_md,
        # The semi-bold face that comes with Gradio lacks most letters, so bold is the bold one.
        font=(gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="700",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_800",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )


def head() -> str:
    """What stands in the page's head: its frame's style, and the scripts that come before all widgets."""
    folder = Path(__file__).parent / "js"
    scripts = "".join(
        f"<script>{(folder / f'{name}.js').read_text(encoding='utf-8')}</script>" for name in HEAD_SCRIPTS
    )
    return f"{_FRAME}{scripts}"


def css() -> str:
    """The style of the page's own pieces."""
    sheets = sorted((Path(__file__).parent / "css").glob("*.css"))
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
