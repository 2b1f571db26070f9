"""Table 3 of paper B: ResNet18 on ImageNet. Its arithmetic is judged; it is not trained yet."""

from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(name="table3", title="Table 3: ResNet18 on ImageNet")
