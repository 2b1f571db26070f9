"""Table 2 of paper B: MobileNetV2 on CIFAR-10. Its arithmetic is judged; training is not built yet."""

from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(name="table2", title="Table 2: MobileNetV2 on CIFAR-10")
