"""What the demo's videos are about: twelve how-to topics of five steps each.

A step is an action on a thing. Actions decide motion and sound, things decide shape and colour, topics decide the
place where it happens and the hum of the room, and the narration names all of them: so the three modalities tell
the same story, each in its own way.
"""

from __future__ import annotations

from typing import NamedTuple


class Action(NamedTuple):
    """How something is done: what it looks and sounds like."""

    verb: str
    motion: str
    """A path of :func:`pipeline.demo.picture.path`."""
    pitch: float
    """Hertz of its sound."""
    beat: float
    """Strokes per second."""
    noise: float
    """Share of its sound that is noise, 0 to 1."""


class Step(NamedTuple):
    """One step of a topic."""

    action: Action
    thing: str
    shape: str
    colour: str
    """The thing's usual colour; ``any``: each video has its own, and the narration names it."""
    remark: str
    """What is said after the instruction."""


class Scene(NamedTuple):
    """A stretch of a video: a step that is done, or none."""

    step: Step | None
    colour: str
    pace: str
    side: str
    start: float
    """Seconds from the start of the video."""
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


class Topic(NamedTuple):
    """A task in the sense of HowTo100M."""

    title: str
    category: str
    place: str
    """Colour of the room."""
    hum: float
    """Hertz of the room's hum."""
    steps: tuple[Step, ...]


COLOURS = {
    "red": (208, 52, 44),
    "green": (58, 150, 66),
    "blue": (48, 96, 200),
    "yellow": (236, 196, 56),
    "white": (238, 236, 230),
    "brown": (126, 80, 44),
    "black": (38, 38, 44),
    "orange": (236, 132, 40),
    "purple": (130, 70, 170),
    "grey": (140, 146, 152),
}
NAMED = ("red", "green", "blue", "yellow", "orange", "purple")
"""Colours that a thing of colour ``any`` can have."""
PACES = {"slowly": 0.65, "quickly": 1.5}
"""How fast a step is done, as a factor of its action's beat."""
SIDES = {"left": 0.3, "right": 0.7}
"""Where a step is done, as a share of the picture's width."""

_pour = Action("pour", "fall", 520, 0.7, 0.8)
_stir = Action("stir", "circle", 330, 1.6, 0.3)
_cut = Action("cut", "chop", 900, 3.2, 0.6)
_spread = Action("spread", "sweep", 240, 0.9, 0.7)
_press = Action("press", "push", 150, 1.1, 0.1)
_turn = Action("turn", "rock", 410, 2.2, 0.2)
_lift = Action("lift", "rise", 640, 0.5, 0.1)
_shake = Action("shake", "shiver", 760, 5.0, 0.5)
_place = Action("place", "settle", 190, 0.6, 0.0)
_fold = Action("fold", "flip", 280, 1.0, 0.4)
_rub = Action("rub", "zigzag", 1100, 4.0, 0.9)
_hammer = Action("hammer", "strike", 1400, 2.6, 0.2)


def _step(action: Action, thing: str, shape: str, colour: str, remark: str) -> Step:
    return Step(action, thing, shape, colour, remark)


# fmt: off
TOPICS = (
    Topic(
        "make pancakes", "Food and Entertaining", "orange", 110,
        (
            _step(_pour, "milk", "drop", "white", "a little at a time"),
            _step(_stir, "batter", "disc", "yellow", "until there are no lumps"),
            _step(_spread, "butter", "bar", "yellow", "all over the hot pan"),
            _step(_fold, "pancake", "disc", "brown", "when the bubbles burst"),
            _step(_place, "berries", "dots", "any", "and serve it warm"),
        ),
    ),
    Topic(
        "plant a tomato", "Home and Garden", "green", 147,
        (
            _step(_press, "soil", "square", "brown", "but not too firmly"),
            _step(_place, "seedling", "triangle", "green", "right in the middle"),
            _step(_pour, "water", "drop", "blue", "close to the roots"),
            _step(_hammer, "stake", "bar", "brown", "deep into the ground"),
            _step(_turn, "string", "ring", "any", "loosely around the stem"),
        ),
    ),
    Topic(
        "repair a bicycle tyre", "Cars and Other Vehicles", "grey", 98,
        (
            _step(_lift, "wheel", "ring", "black", "out of the fork"),
            _step(_rub, "tube", "ring", "grey", "so that the glue will hold"),
            _step(_spread, "glue", "drop", "yellow", "and wait two minutes"),
            _step(_press, "patch", "square", "any", "from the centre outwards"),
            _step(_shake, "pump", "bar", "blue", "until the tyre is hard"),
        ),
    ),
    Topic(
        "paint a wall", "Home and Garden", "white", 123,
        (
            _step(_rub, "wall", "square", "grey", "to make it smooth"),
            _step(_place, "tape", "bar", "blue", "along every edge"),
            _step(_stir, "paint", "disc", "any", "before you open the window"),
            _step(_spread, "paint", "square", "any", "in long even strokes"),
            _step(_lift, "tape", "bar", "blue", "while it is still wet"),
        ),
    ),
    Topic(
        "fold a paper crane", "Hobbies and Crafts", "purple", 165,
        (
            _step(_place, "paper", "square", "any", "with the pattern down"),
            _step(_fold, "corner", "triangle", "white", "onto the opposite one"),
            _step(_press, "crease", "bar", "white", "with your fingernail"),
            _step(_turn, "paper", "diamond", "any", "and do the other side"),
            _step(_lift, "wings", "triangle", "any", "gently to open them"),
        ),
    ),
    Topic(
        "brew coffee", "Food and Entertaining", "brown", 131,
        (
            _step(_shake, "beans", "dots", "brown", "into the grinder"),
            _step(_turn, "grinder", "ring", "black", "until it runs freely"),
            _step(_pour, "water", "drop", "blue", "just off the boil"),
            _step(_press, "plunger", "bar", "grey", "slowly to the bottom"),
            _step(_place, "cup", "disc", "any", "beside a biscuit"),
        ),
    ),
    Topic(
        "change a light bulb", "Home and Garden", "black", 88,
        (
            _step(_press, "switch", "square", "white", "and let it cool down"),
            _step(_turn, "bulb", "disc", "grey", "to the left to loosen it"),
            _step(_lift, "bulb", "disc", "yellow", "to the empty socket"),
            _step(_rub, "lamp", "triangle", "any", "to get the dust off"),
            _step(_place, "cover", "diamond", "any", "back where it was"),
        ),
    ),
    Topic(
        "make a salad", "Food and Entertaining", "green", 196,
        (
            _step(_cut, "cucumber", "bar", "green", "into thin slices"),
            _step(_cut, "pepper", "triangle", "any", "and take the seeds out"),
            _step(_pour, "oil", "drop", "yellow", "over the leaves"),
            _step(_shake, "salt", "dots", "white", "from high above"),
            _step(_stir, "salad", "dots", "green", "with two big spoons"),
        ),
    ),
    Topic(
        "build a shelf", "Home and Garden", "brown", 104,
        (
            _step(_cut, "board", "bar", "brown", "along the pencil line"),
            _step(_rub, "edge", "bar", "white", "until no splinter is left"),
            _step(_hammer, "nail", "diamond", "grey", "straight through both"),
            _step(_spread, "varnish", "square", "any", "with a soft brush"),
            _step(_lift, "shelf", "square", "brown", "onto its brackets"),
        ),
    ),
    Topic(
        "bake bread", "Food and Entertaining", "yellow", 139,
        (
            _step(_shake, "flour", "dots", "white", "through a fine sieve"),
            _step(_pour, "yeast", "drop", "brown", "into the warm bowl"),
            _step(_press, "dough", "disc", "white", "for a good ten minutes"),
            _step(_cut, "loaf", "disc", "brown", "twice across the top"),
            _step(_place, "cloth", "square", "any", "and let it rise"),
        ),
    ),
    Topic(
        "clean a window", "Home and Garden", "blue", 175,
        (
            _step(_shake, "bottle", "bar", "any", "to mix the soap"),
            _step(_pour, "soap", "drop", "green", "onto the sponge"),
            _step(_rub, "glass", "square", "blue", "from top to bottom"),
            _step(_spread, "squeegee", "bar", "black", "without lifting it"),
            _step(_turn, "cloth", "diamond", "any", "in the last corner"),
        ),
    ),
    Topic(
        "hang a picture", "Hobbies and Crafts", "red", 117,
        (
            _step(_place, "level", "bar", "green", "and mark both ends"),
            _step(_hammer, "hook", "ring", "grey", "with short blows"),
            _step(_rub, "frame", "ring", "brown", "with a dry cloth"),
            _step(_lift, "picture", "square", "any", "until the wire catches"),
            _step(_turn, "picture", "diamond", "any", "a little to straighten it"),
        ),
    ),
)
# fmt: on
