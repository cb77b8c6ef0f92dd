"""What the paper measured of s1-32B, to be drawn beside what is measured here.

Facts of arXiv 2501.19393. The points of budget forcing and rejection sampling are read off the
vector pictures of figures 1 and 6; those of the other methods stand in tables 12 to 14 (appendix
E.1), the metrics in table 3.
"""

# By task and method: mean tokens of thinking, and accuracy in percent.
PAPER: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "aime24": {
        "BF": (
            (500, 0.0),
            (1000, 13.3),
            (2000, 30.0),
            (3933, 43.3),
            (5300, 50.0),
            (6657, 53.3),
            (7320, 56.7),
        ),
        "TCC": ((7939, 26.7), (7158, 30.0), (8263, 33.3), (7108, 33.3), (7500, 40.0)),
        "TCC+BF": ((1024, 3.3), (2048, 30.0), (4031, 33.3), (5664, 33.3), (6330, 40.0)),
        "SCC": ((7252, 33.3), (6277, 23.3), (5396, 33.3), (5552, 36.7), (7551, 33.3)),
        "SCC+BF": ((1517, 23.3), (2963, 23.3), (4636, 33.3), (5409, 36.7), (7551, 33.3)),
        "CCC": ((8033, 30.0), (9651, 36.7)),
        # Table 3 leaves out the first, of the budget of 3,500.
        "RS": (
            (2974, 40.0),
            (3703, 36.7),
            (4344, 33.3),
            (4734, 30.0),
            (5193, 26.7),
            (5293, 23.3),
        ),
    },
    "math500": {
        "BF": ((499, 64.0), (984, 80.0), (1814, 85.6), (2868, 90.6), (3200, 93.2)),
    },
    "gpqa_diamond": {
        "BF": ((500, 37.9), (985, 49.5), (1742, 51.0), (3231, 57.6), (4649, 59.6)),
    },
}

# By task and method: Control in percent, Scaling in points per doubling, Performance in percent.
METRICS: dict[str, dict[str, tuple[float, float, float]]] = {
    "aime24": {
        "BF": (100, 15, 56.7),
        "TCC": (40, -24, 40.0),
        "TCC+BF": (100, 13, 40.0),
        "SCC": (60, 3, 36.7),
        "SCC+BF": (100, 6, 36.7),
        "CCC": (50, 25, 36.7),
        "RS": (100, -35, 40.0),
    },
}
