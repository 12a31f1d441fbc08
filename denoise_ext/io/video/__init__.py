"""Video files as streams of frames: one frame in memory at a time, nothing else of the file lost.

    with read_video("in.mp4") as video:
        frames = (frame.with_picture(clean(frame.picture())) for frame in video)
        write_video("out.mkv", frames, video)

Needs PyAV: ``pip install denoise-ext[video]``. Streams and files of y4m need nothing more.
"""

from denoise_ext.io.video.frames import Colour, VideoFrame, windows
from denoise_ext.io.video.read import read_video
from denoise_ext.io.video.source import Video, VideoInfo
from denoise_ext.io.video.write import check_can_write_video, write_video
from denoise_ext.io.video.y4m import write_y4m, y4m_format

__all__ = [
    "Colour",
    "Video",
    "VideoFrame",
    "VideoInfo",
    "check_can_write_video",
    "read_video",
    "windows",
    "write_video",
    "write_y4m",
    "y4m_format",
]
