"""One set of files for colcon (ament_python) and for pip.

colcon installs dependencies from package.xml by rosdep and ignores `install_requires`, so a workspace
keeps the OpenCV of the distribution (python3-opencv). pip cannot see that one: in a virtual environment
over a ROS installation use `pip install --no-deps .`, or two OpenCVs would shadow each other.
"""

from __future__ import annotations

import platform
from glob import glob

from setuptools import Extension, find_packages, setup

PACKAGE = "efficient_matcher"

COMMAND_LINE = ["typer>=0.12", "rich>=13"]
REPLAY = ["rosbags>=0.10.4", *COMMAND_LINE]
TRAIN = ["torch>=2.2", "opencv-python-headless>=4.8", "onnxruntime>=1.18", "safetensors>=0.4", "onnx>=1.16",
         "onnxscript>=0.5", "torch-pruning>=1.5", "tensorboard>=2.14", *COMMAND_LINE]
# rosbags describes and packs the messages; the codec override leans on internals of cyclonedds 11
DDS = ["cyclonedds>=11,<12", *REPLAY]
# elsewhere there may be no wheel, and the suite does without
DDS_TEST = ["cyclonedds>=11,<12; sys_platform == 'linux' and platform_machine == 'x86_64'"]
# dask and distributed are for `sensitivity --scheduler` alone
COMPRESS = ["joblib>=1.4", "dask>=2024.1", "distributed>=2024.1", "matplotlib>=3.7", *TRAIN]
SFM = ["h5py>=3.7", *COMMAND_LINE]
PLOTS = ["matplotlib>=3.7", *COMMAND_LINE]
DEMO = ["scikit-image>=0.22", *REPLAY]
OPENVINO = ["openvino>=2024.0"]
TEST = ["pytest>=7"]

# Inner loops in C, which numpy stands in for where there is no compiler (`optional`). No x86 flag but the width of vectors:
# which instructions run is decided when the library is loaded.
KERNELS = Extension(
    f"{PACKAGE}.core._kernels",
    sources=sorted(glob(f"{PACKAGE}/core/kernels/*.c")),
    depends=sorted(glob(f"{PACKAGE}/core/kernels/*.h")),
    extra_compile_args=["-O3", "-g0", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
                        "-fopenmp-simd", *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else [])],
    libraries=["m"],
    optional=True,
)

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Deep feature matching in real time on a robot's CPU: matches and homographies for SLAM",
    author="efficient_matcher maintainers",
    author_email="maintainers@efficient-matcher.example",
    maintainer="efficient_matcher maintainers",
    maintainer_email="maintainers@efficient-matcher.example",
    license="Apache-2.0",
    keywords=["ROS", "feature matching", "SuperPoint", "SuperGlue", "homography", "SLAM"],
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    ext_modules=[KERNELS],
    # no `**`: setuptools 59 of Ubuntu 22.04 does not know it
    package_data={PACKAGE: ["models/*", "models/*/*", "models/*/*/*", "recipes/*.yaml", "core/kernels/*.[ch]"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.*"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.yaml"))),
        (f"share/{PACKAGE}/config/recipes", sorted(glob("config/recipes/*.yaml"))),
    ],
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=["numpy>=1.22", "opencv-python-headless>=4.6", "onnxruntime>=1.16", "PyYAML>=5.4"],
    extras_require={
        "replay": REPLAY,
        "train": TRAIN,
        "dds": DDS,
        "demo": DEMO,
        "openvino": OPENVINO,
        "plots": PLOTS,
        "sfm": SFM,
        "compress": COMPRESS,
        "test": TEST,
        "dev": [*TEST, *DEMO, *PLOTS, *SFM, *COMPRESS, *OPENVINO, *DDS_TEST],
    },
    entry_points={
        "console_scripts": [
            f"efficient-matcher = {PACKAGE}.cli:main",
            f"matcher_node = {PACKAGE}.ros.start:main",
        ],
    },
)
