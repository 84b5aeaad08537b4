//! HLS: playlists and the windows of segments behind them.
