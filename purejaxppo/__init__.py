from purejaxppo.config import Config
from purejaxppo.ppo import init, train, update
