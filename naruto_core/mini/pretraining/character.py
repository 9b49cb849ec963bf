"""Drawing of a character from back to front: hair, body, neck, face, hair over the face, headband."""

from random import Random

from naruto_core.mini.pretraining.body import draw_body
from naruto_core.mini.pretraining.clothing import draw_garment, draw_neck
from naruto_core.mini.pretraining.face import draw_brows, draw_face, draw_whiskers
from naruto_core.mini.pretraining.figure import make_figure
from naruto_core.mini.pretraining.hair import draw_back_hair, draw_front_hair, front_hair
from naruto_core.mini.pretraining.headband import draw_headband, draw_knot
from naruto_core.mini.pretraining.pen import Pen
from naruto_core.mini.pretraining.world import Character


def draw_character(pen: Pen, character: Character, full_body: bool, insignia: bool, rng: Random) -> None:
    """Draw `character` with `pen`, whose origin is the middle of the head; `insignia`: whiskers and headband."""
    figure = make_figure(pen, character, rng)
    hair = front_hair(figure)
    if character.cut in ("long", "bob"):
        draw_back_hair(figure)
    draw_neck(figure)
    (draw_body if full_body else draw_garment)(figure)
    if character.cut in ("bun", "twin tails"):
        draw_back_hair(figure)
    if insignia:
        draw_knot(figure)
    draw_face(figure, [hair])
    if insignia:
        draw_whiskers(figure)
    draw_front_hair(figure, hair)
    if insignia:
        draw_headband(figure)
    draw_brows(figure)
