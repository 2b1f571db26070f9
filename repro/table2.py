"""Table 2 of paper B: MobileNetV2 on CIFAR-10. Its arithmetic is judged; it is not trained yet."""

from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(name="table2", title="Table 2: MobileNetV2 on CIFAR-10")
