"""Table 4 of paper B: ResNet18, frames averaged, on Mini-Kinetics. Its arithmetic is judged; it is not trained yet."""

from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(name="table4", title="Table 4: ResNet18 with averaged frames on Mini-Kinetics")
