"""Whether a rehearsal sees what is wrong with a panel, and whether pictures say what values are."""

import unittest

import files  # noqa: F401
import drawing
import rehearsal
from sources.board import Dashboard, panel, row

MOVING = [({"model": "m"}, [(0, 0.0), (1, 2.0)])]
STANDING = [({"model": "m"}, [(0, 0.0), (1, 0.0)])]


class Server:
    """Answers each query with the same series."""

    def __init__(self, found):
        self.found, self.asked = found, []

    def series(self, expression, start, end, step):
        self.asked.append(expression)
        return iter(self.found)


def faults(found, *queries, **options):
    looks = rehearsal.Looks(Server(found), 0)
    return [fault.split(":")[0] for fault in looks.panel_faults(panel("p", "s", *(queries or [("a", "{{model}}")]), **options))]


class Panels(unittest.TestCase):
    def test_data_that_moves_passes(self):
        self.assertEqual(faults(MOVING), [])

    def test_no_data_is_a_fault_unless_there_is_a_reason(self):
        self.assertEqual(faults([]), ["no data", "nothing but zeros"])
        self.assertEqual(faults([], empty="because"), [])
        self.assertEqual(faults([], ("a", "x", "because"), quiet="because"), [])

    def test_zeros_are_a_fault_unless_there_is_a_reason(self):
        self.assertEqual(faults(STANDING), ["nothing but zeros"])
        self.assertEqual(faults(STANDING, quiet="because"), [])

    def test_a_legend_names_labels_that_are_there(self):
        self.assertEqual(faults(MOVING, ("a", "{{pod}}")), ["its legend names pod, which no result has"])

    def test_queries_are_sent_as_grafana_would(self):
        server = Server(MOVING)
        list(rehearsal.Looks(server, 0).panel_faults(panel("p", "s", ('rate(a{b=~"$c"}[$__rate_interval])', "x"))))
        self.assertEqual(server.asked, [f'rate(a{{b=~".*"}}[{rehearsal.RATE_INTERVAL}])'])


    def test_each_panel_is_looked_at_though_two_have_one_title(self):
        looks = rehearsal.Looks(Server(MOVING), 0)
        board = Dashboard("u", "b", "", (row("r", panel("p", "s", ("a", "x")), panel("p", "s", ("a", "{{pod}}"))),))
        self.assertEqual(len(list(looks.faults([board]))), 1)
        self.assertEqual(len(looks.seen), 1)


class Pictures(unittest.TestCase):
    def test_values_have_their_units(self):
        written = [drawing.text_of(*pair) for pair in (
            (0.0123, "s"), (150, "s"), (90, "s"), (250, "ms"), (12, "µs"), (0.5, "percentunit"), (2048, "bytes"), (1500, "Bps"), (12500, "short"), (3, "reqps"), (0, "s"),
        )]
        self.assertEqual(written, ["12.3 ms", "2.5 min", "90 s", "250 ms", "12 µs", "50%", "2 KiB", "1.5 kB/s", "12.5 k", "3 req/s", "0"])

    def test_an_axis_covers_its_values_in_round_steps(self):
        for low, high, unit in ((0, 7, "short"), (0, 0, "short"), (0, 0.93, "percentunit"), (-3, 8, "short"), (0, 70_000, "bytes")):
            bottom, top, ticks = drawing.axis(low, high, unit)
            self.assertTrue(bottom <= low and top >= high and ticks[0] == bottom and ticks[-1] == top, (low, high))
            self.assertIn(len(ticks), range(3, 8))

    def test_a_gap_stays_a_gap(self):
        pieces = list(drawing.pieces([(0, 1.0), (1, 1.0), (5, 1.0)], 1))
        self.assertEqual(pieces, [[(0, 1.0), (1, 1.0)], [(5, 1.0)]])

    def test_stacked_series_stand_upon_each_other(self):
        (first, _), (second, below) = drawing.stacked([("a", [(0, 1.0), (1, 2.0)]), ("b", [(1, 3.0)])])
        self.assertEqual((first, below, second), ([(0, 1.0), (1, 2.0)], [(0, 1.0), (1, 2.0)], [(0, 1.0), (1, 5.0)]))


if __name__ == "__main__":
    unittest.main()
