"""How sure a mean over a few seeds is."""

import math
import statistics

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def half_width_95(values: list[float]) -> float | None:
    """Half the width of the mean's 95 % interval (Student's t, two to ten values); None for a single value."""
    if len(values) == 1:
        return None
    return T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
