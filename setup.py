"""Build max_nb from `settings.ini`, the one place where names, versions and requirements are written."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXTRAS = ("lab", "dev", "docs", "explain", "hub", "pdz", "lora", "chemomae")  # explain and hub: names for what comes along anyway
LICENSES = {"apache2": "Apache-2.0"}
STATUS = {"2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


def read_settings():
    config = ConfigParser(delimiters=["="])
    config.read(HERE / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


settings = read_settings()
setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"], "Changes": settings["git_url"] + "/blob/main/CHANGELOG.md"},
    license=LICENSES[settings["license"]],
    license_files=["LICENSE"],
    keywords=settings["keywords"].split(),
    classifiers=[
        f"Development Status :: {STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        "Framework :: Jupyter",
        "Natural Language :: " + settings["language"],
        *(f"Programming Language :: Python :: {version}" for version in ("3", *settings["python_versions"].split())),
        "Topic :: Scientific/Engineering",
    ],
    packages=find_packages(include=[settings["lib_path"], settings["lib_path"] + ".*"]),
    include_package_data=True,
    package_data={settings["lib_path"]: ["pretrained/*/*"]},
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={extra: settings[f"{extra}_requirements"].split() for extra in EXTRAS},
    entry_points={"console_scripts": settings["console_scripts"].split()},
    zip_safe=False,
)
