"""The clients' side: the Flower ClientApp, learners, executors and client state."""

from fedkt.clients.app import KnowledgeClientApp, client_app, predict
from fedkt.clients.client import Client
from fedkt.clients.learners.at_server import LearnerModels
from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.learners.sklearn import SklearnLearner
from fedkt.clients.learners.torch import TorchLearner
from fedkt.clients.policy import Policy
from fedkt.clients.state import FileStore, MemoryStore
from fedkt.training import TrainingOptions

__all__ = [
    "Client",
    "FileStore",
    "KnowledgeClientApp",
    "Learner",
    "LearnerModels",
    "MemoryStore",
    "Policy",
    "SklearnLearner",
    "TorchLearner",
    "TrainingOptions",
    "Work",
    "client_app",
    "predict",
]
